"""A new recommender takes the place of the one that serves only if it is as good."""

import shutil
from collections.abc import Callable
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import DataError, ModelError
from seqrec.evaluation import evaluate
from seqrec.files import read_json, write_json
from seqrec.metrics import ndcg

import numpy as np
import pytest
from accelerate import Accelerator

from export import publishing
from export.config import PublishConfig
from export.publish import main
from export.publishing import Comparison, draw, gain
from export.recommender import Recommender
from student.model import Student
from tests.export.answers import MAX_LEN, export_random, flip_a_byte

WriteSequences = Callable[[list[list[int]], int], SequenceDataset]
ANY_COST = ["--max-latency", "1000", "--max-size", "1000"]


@pytest.fixture(scope="module")
def other(tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the same kind with other weights, hence other answers."""
    return export_random(tmp_path_factory.mktemp("other"), tiny_dataset, seed=5)


@pytest.fixture
def serving(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "serving"))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def flags(model: Path, serving: Path, dataset: SequenceDataset, *more: str) -> list[str]:
    of_paths = ["--model-dir", str(model), "--serving-dir", str(serving)]
    return [*of_paths, "--data-dir", str(dataset.path), *more]


def test_where_nothing_serves_the_new_one_does(
    folder: Path, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    main(flags(folder, tmp_path / "serving", tiny_dataset))
    assert contents(tmp_path / "serving") == contents(folder)


def test_one_that_is_as_good_takes_the_place(
    serving: Path, other: Path, tiny_dataset: SequenceDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    main(flags(other, serving, tiny_dataset, "--min-ndcg", "0", *ANY_COST))
    assert contents(serving) == contents(other)
    assert f"{other} serves in {serving} now" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("limit", "row"),
    [("--min-ndcg 1e9", "NDCG@10"), ("--max-latency 0", "p50"), ("--max-size 0.5", "MiB")],
)
def test_one_that_is_worse_in_anything_leaves_the_old_one_as_it_is(
    limit: str,
    row: str,
    serving: Path,
    other: Path,
    tiny_dataset: SequenceDataset,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = contents(serving)
    with pytest.raises(SystemExit) as stopped:
        main(flags(other, serving, tiny_dataset, "--min-ndcg", "0", *ANY_COST, *limit.split()))
    assert stopped.value.code == 1
    assert contents(serving) == before
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith(row) for line in lines if line.endswith(" no")] == [True]
    assert lines[-1] == f"{serving} stays as it is"


def test_it_is_judged_as_the_evaluation_judges_it(
    folder: Path, tiny_dataset: SequenceDataset
) -> None:
    """NDCG@10 through the client, of ids, is that of the student's ranks among all items."""
    student = Student.from_pretrained(folder.parents[1] / "students" / "gru" / "control")
    found = gain(
        Recommender.from_pretrained(folder), draw(tiny_dataset, None), tiny_dataset.exclude_seen
    )
    one = {"max_len": MAX_LEN, "device": "cpu", "accelerator": Accelerator(cpu=True)}
    result = evaluate(student, tiny_dataset, "test", **one)
    expected = ndcg(np.asarray(result.excluding_seen), 10)
    assert len(found) == len(expected)
    assert found.mean() == pytest.approx(expected.mean(), abs=1e-12)
    assert expected.mean() > 0


def test_a_recommender_that_knows_nothing_of_a_history_gains_nothing_by_it(folder: Path) -> None:
    asked = [publishing.Asked(["from another catalogue"], "b01")]
    assert gain(Recommender.from_pretrained(folder), asked, exclude_seen=True).tolist() == [0.0]


def test_since_yesterday_those_count_who_have_new_events(
    write_sequences: WriteSequences, tmp_path: Path
) -> None:
    """User 0 is as yesterday, user 1 has one more event, user 2 is new."""
    yesterday = write_sequences([[1, 2, 3], [4, 5, 6]], 9)
    yesterday = Path(shutil.copytree(yesterday.path, tmp_path / "yesterday"))
    today = write_sequences([[1, 2, 3], [4, 5, 6, 7], [8, 9, 1]], 9)
    everybody, newest = draw(today, None), draw(today, yesterday)
    assert sorted(one.target for one in everybody) == ["title 1", "title 3", "title 7"]
    assert sorted(newest) == [
        (["title 4", "title 5", "title 6"], "title 7"),
        (["title 8", "title 9"], "title 1"),
    ]
    with pytest.raises(DataError, match="no user with a test target and new events since"):
        draw(today, today.path)


@pytest.mark.parametrize(("old", "new", "ratio"), [(2, 3, 1.5), (0, 0, 1), (0, 1, float("inf"))])
def test_ratios_by_hand(old: float, new: float, ratio: float) -> None:
    assert Comparison("MiB", [old, new]).ratio == ratio
    assert Comparison("MiB", [2, 3], most=1.5).holds
    assert not Comparison("MiB", [2, 3], most=1.4).holds
    assert not Comparison("NDCG@10", [2, 3], least=1.6).holds


def test_what_is_damaged_or_of_other_data_is_refused(
    serving: Path, other: Path, tiny_dataset: SequenceDataset, tiny_cold: SequenceDataset,
    tmp_path: Path,
) -> None:  # fmt: skip
    before = contents(serving)
    config = {"serving_dir": serving, "data_dir": tiny_dataset.path}
    damaged = Path(shutil.copytree(other, tmp_path / "damaged"))
    flip_a_byte(damaged / "model.onnx")
    with pytest.raises(ModelError, match="model.onnx"):
        publishing.publish(PublishConfig(model_dir=damaged, **config))
    with pytest.raises(ModelError, match="was trained on data set"):
        publishing.publish(PublishConfig(model_dir=other, **config | {"data_dir": tiny_cold.path}))
    assert contents(serving) == before
    write_json(serving / "config.json", read_json(serving / "config.json") | {"version": 1})
    with pytest.raises(
        ModelError, match=rf"expected .* version 2\. .*mv {serving} {serving}\.old$"
    ):
        publishing.publish(PublishConfig(model_dir=other, **config))


def test_who_is_killed_while_publishing_leaves_the_old_one(
    serving: Path, other: Path, tiny_dataset: SequenceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(serving)

    def fail(*_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publishing.shutil, "copy", fail)
    with pytest.raises(KeyboardInterrupt):
        main(flags(other, serving, tiny_dataset, "--min-ndcg", "0", *ANY_COST))
    assert contents(serving) == before
    assert [path.name for path in serving.parent.glob(".*")] == []
