"""To the model hub and back: its own client, in a process of its own, asks a stand-in."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from seqrec.errors import SourceError
from seqrec.files import read_json
from seqrec.hub import is_hub_id
from seqrec.sources import DATASETS

import pytest
from huggingface_hub import ModelCard

from export.cards import about_recommender
from export.recommender import Recommender
from tests.export.answers import ids
from tests.hub_server import TOKEN, Hub, serve_hub

pytestmark = pytest.mark.slow

Done = subprocess.CompletedProcess[str]
ROOT = Path(__file__).parents[2]
ASK = """
import sys
from export.recommender import Recommender
try:
    answer = Recommender.from_pretrained(sys.argv[1]).recommend(["b07", "b08"], k=3)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
sys.stdout.write(" ".join(item.item_id for item in answer))
"""
WITHOUT_THE_CLIENT = """
import sys
sys.modules["huggingface_hub"] = None  # so that importing it fails
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serve_hub(tmp_path / "hub") as opened:
        yield opened


def start(hub: Hub, *words: str, **environment: str) -> Done:
    """Run Python with the stand-in as the hub, and with a cache of the hub's client beside it."""
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(hub.root.parent / "cache")}
    settings |= {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", **environment}
    command = [sys.executable, *words]
    env = {**os.environ, **settings}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def push(hub: Hub, folder: Path, *flags: str, **environment: str) -> Done:
    words = ("-m", "export.push_to_hub", "--model-dir", str(folder), "--hub-id", "user/model")
    return start(hub, *words, *flags, **environment)


def ask(hub: Hub, name: str, program: str = ASK, **environment: str) -> Done:
    return start(hub, "-c", program, name, **environment)


def test_what_is_sent_is_opened_by_its_name_and_answers_alike(
    hub: Hub, folder: Path, recommender: Recommender
) -> None:
    sent = push(hub, folder)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout == f"{hub.address}/user/model\n"
    files = {file.name: file.read_bytes() for file in hub.folder("user/model").iterdir()}
    assert files == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert hub.is_private == {"user/model": True}
    # What was fetched is kept: the next time works without the hub.
    nowhere = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://[::1]:9"}
    expected = ids(recommender.recommend(["b07", "b08"], k=3))
    for name, settings in (("user/model", {}), ("user/model", nowhere), ("user/model@v1.0", {})):
        asked = ask(hub, name, **settings)
        assert asked.stdout.split() == expected, asked.stderr
    assert hub.revisions == ["main", "v1.0"]


def test_sending_again_replaces_and_leaves_who_may_see_it(hub: Hub, folder: Path) -> None:
    assert push(hub, folder, "--no-private").returncode == 0
    there = hub.folder("user/model") / "model.onnx"
    there.write_bytes(b"older")
    assert push(hub, folder).returncode == 0
    assert there.read_bytes() == (folder / "model.onnx").read_bytes()
    assert hub.is_private == {"user/model": False}


def test_what_comes_damaged_from_the_hub_is_refused(hub: Hub, folder: Path) -> None:
    assert push(hub, folder).returncode == 0
    (hub.folder("user/model") / "model.onnx").write_bytes(b"something else")
    # The hub's progress bar may stand before it on the same line.
    _, said, line = ask(hub, "user/model").stderr.rstrip("\n").rpartition("ModelError: ")
    assert said
    assert "\n" not in line
    assert "model.onnx is damaged: SHA-256" in line
    assert line.endswith("Send it again: python -m export.push_to_hub --hub-id user/model")


def test_a_damaged_folder_is_not_sent(hub: Hub, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "items.json").write_text("{}")
    sent = push(hub, tmp_path / "copy")
    assert sent.returncode == 2
    assert "items.json is damaged" in sent.stderr
    assert hub.asked == []


@pytest.mark.parametrize("name", ["user/nothing", "user/nothing@v2"])
def test_a_name_that_the_hub_does_not_know_is_one_line(hub: Hub, name: str) -> None:
    (line,) = ask(hub, name).stderr.splitlines()
    assert line.startswith(f"SourceError: the model hub did not give {name!r}, and there is no")
    assert "RepositoryNotFoundError" in line


def test_who_may_not_write_is_told_in_one_line(hub: Hub, folder: Path) -> None:
    sent = push(hub, folder, HF_TOKEN="hf_of_somebody_else")
    assert sent.returncode == 2
    (line,) = sent.stderr.splitlines()
    assert line.startswith("error: the model hub did not take 'user/model' (")
    assert "hf auth login" in line


def test_without_the_hubs_client_it_is_said_what_to_install(hub: Hub, folder: Path) -> None:
    asked = ask(hub, "user/model", WITHOUT_THE_CLIENT + ASK)
    assert "SourceError: there is no folder 'user/model' here" in asked.stderr
    assert "pip install huggingface_hub" in asked.stderr
    here = ask(hub, str(folder), WITHOUT_THE_CLIENT + ASK)  # nothing else needs it
    assert len(here.stdout.split()) == 3, here.stderr
    assert hub.asked == []


def test_neither_a_folder_that_is_there_nor_a_path_object_is_asked_of_the_hub(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    as_path = ASK.replace("sys.argv[1]", "__import__('pathlib').Path(sys.argv[1])")
    assert "no usable recommender in user/model" in ask(hub, "user/model", as_path).stderr
    (tmp_path / "user").mkdir()
    (tmp_path / "user/model").symlink_to(folder)
    program = f"import os; os.chdir({str(tmp_path)!r})\n{ASK}"
    asked = ask(hub, "user/model", program, PYTHONPATH=str(ROOT))
    assert len(asked.stdout.split()) == 3, asked.stderr
    assert hub.asked == []


def test_a_name_of_the_hub_has_one_slash() -> None:
    names = ["user/model", "user/model-v1.5", "user/model@0123abc", "user/model@refs/pr/1"]
    others = ["model", "runs/ml-100k/export", "./model", "../model", "/model", "user/"]
    others += ["user/model@", "user/mo del"]
    assert [name for name in names + others if is_hub_id(name)] == names


@pytest.mark.parametrize("name", ["model", "user/model@main", "a/b/c"])
def test_nothing_is_sent_to_what_is_no_name_of_the_hub(recommender: Recommender, name: str) -> None:
    with pytest.raises(SourceError, match="Expected user/model"):
        recommender.push_to_hub(name)


def test_the_card_is_one_that_the_hub_reads(folder: Path) -> None:
    card = ModelCard((folder / "README.md").read_text(encoding="utf-8"))
    assert card.text.lstrip().startswith("# gru control fp32")
    data = card.data.to_dict()
    assert (data["license"], data["library_name"]) == ("other", "llm-seqrec")
    assert {"sequential-recommendation", "onnx", "gru"} <= set(data["tags"])
    assert not {"datasets", "language"} & set(data)  # of unknown origin


def test_the_card_of_a_named_data_set_says_its_language_and_what_was_measured(folder: Path) -> None:
    config = read_json(folder / "config.json")
    config |= {"dataset": "ml-100k", "valid_metrics": {"ndcg@10": 0.125}}
    known = about_recommender(config, {"publisher": DATASETS["ml-100k"].publisher})
    data = ModelCard(known).data
    assert (data.datasets, data.language) == (["ml-100k"], "en")
    assert data.model_name == "gru-control-fp32"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("ndcg@10", 0.125)
    assert (result.dataset_name, result.dataset_split) == ("ml-100k", "validation")
    same_name = ModelCard(about_recommender(config, {})).data  # but a table of the user's
    assert (same_name.datasets, same_name.language) == (None, None)
