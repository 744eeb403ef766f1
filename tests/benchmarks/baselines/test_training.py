"""Baselines are trained as our students are, and know no test target."""

import ast
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset
from seqrec.errors import StaleKnowledgeError
from seqrec.files import read_json, write_json
from seqrec.knowledge import Knowledge

import numpy as np
import pytest

from benchmarks.baselines import training
from benchmarks.baselines.libraries import BASELINES, HERE, Baseline
from benchmarks.baselines.training import training_report, worker_environment, write_exchange
from benchmarks.baselines.workers.serving import Exchange
from benchmarks.report.schema import Training
from tests.benchmarks.baselines.conftest import Train

pytestmark = pytest.mark.slow


Knowing = Callable[..., Knowledge]


def trainings(folder: Path) -> list[str]:
    """The epochs that each training was told, in order."""
    return (folder.parent / "trainings.txt").read_text().split()


def test_the_best_epoch_is_how_long_it_trains_on_everything(trained: Path) -> None:
    assert read_json(trained.parent / "choice" / "trained.json")["num_epochs"] == 2
    assert read_json(trained / "trained.json")["num_epochs"] == 2
    assert trainings(trained) == ["0", "2"]


def test_where_nothing_is_learnt_anew_the_best_epoch_itself_is_served(
    train: Train, tiny_dataset: SequenceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "refit_epochs", lambda *_: 0)
    folder = train()
    assert trainings(folder) == ["0"]
    report = training_report(folder)
    assert report.num_epochs == 2
    assert report.minutes == read_json(folder / "trained.json")["minutes"]
    counts = np.bincount(exchanged(folder)["events"], minlength=tiny_dataset.num_items + 1)
    assert np.load(folder / "counts.npy").tolist() == (counts + 2).tolist()  # of the second epoch


def test_baselines_are_as_wide_as_our_students() -> None:
    by_name = {one.name: one.settings(96) for one in BASELINES}
    assert by_name["recbole gru4rec"]["model_settings"]["hidden_size"] == 96
    assert by_name["recbole sasrec"]["model_settings"]["hidden_size"] == 96
    for name in ("replay sasrec", "rectools sasrec", "rectools esasrec", "rectools unisrec"):
        assert by_name[name]["hidden_dim"] == 96
    assert all(of["max_len"] == 50 for of in by_name.values())


def test_a_baseline_that_reads_texts_is_not_called_one_of_interactions_alone() -> None:
    identities = [one.identity(mode) for one in BASELINES for mode in one.modes]
    taught = [who.system for who in identities if not who.is_untaught]
    assert taught == ["rectools unisrec"]


def test_a_finished_training_is_reused_until_its_recipe_changes(
    train: Train, baseline: Baseline
) -> None:
    assert trainings(train()) == trainings(train()) == ["0", "2"]
    assert trainings(train(seed=1)) == ["0", "2"] * 2
    wider = replace(baseline, settings=lambda _: {"does": "train", "patience": 3, "width": 3})
    assert trainings(train(wider, seed=1)) == ["0", "2"] * 3


def test_what_a_gpu_has_trained_is_served_where_there_is_none(train: Train) -> None:
    folder = train(train_device="cuda")
    assert training_report(folder).device == "cpu"  # a library without PyTorch needs no GPU
    trained = read_json(folder / "trained.json")
    assert trained["versions"] == {"numpy": np.__version__}
    write_json(folder / "trained.json", trained | {"device": "Some GPU"})  # as one would write it
    assert folder == train()
    assert training_report(folder).device == "Some GPU"


def test_a_worker_sees_a_gpu_only_where_it_is_to_train_there() -> None:
    assert worker_environment(1)["CUDA_VISIBLE_DEVICES"] == ""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    assert worker_environment(1, "cuda").get("CUDA_VISIBLE_DEVICES") == shown


def test_what_is_chosen_is_told_by_its_name(tmp_path: Path) -> None:
    for part, minutes in (("choice", 1.0), ("final", 0.5)):
        (tmp_path / part).mkdir()
        known: dict[str, Any] = {"device": "cpu", "versions": {"implicit": "0.7.3"}}
        trained = {"num_epochs": 2, "minutes": minutes, "cut_short": False, **known}
        trained["valid_ndcg@10"] = [0.1, 0.3, 0.2] if part == "choice" else []
        write_json(tmp_path / part / "trained.json", trained)
        write_json(tmp_path / part / "recipe.json", {"settings": {"neighbours": [20, 50, 100]}})
    report = training_report(tmp_path / "final")
    assert report == Training(num_neighbours=50, num_tried=3, minutes=1.5, cut_short=False, **known)


def test_a_choice_that_was_cut_short_says_so_and_counts_until_more_time_is_given(
    train: Train,
) -> None:
    def choose(minutes: float) -> tuple[bool, list[str]]:
        folder = train(minutes=minutes)
        report = training_report(folder)
        assert report.num_epochs == 2
        assert report.minutes > 0
        return report.cut_short, trainings(folder)

    assert choose(1e-9) == choose(1e-9) == (True, ["0", "2"])
    assert choose(0) == choose(1e-9) == (False, ["0", "2", "0"])  # the final one is as it was


def exchanged(folder: Path) -> dict[str, Any]:
    with np.load(folder / "exchange" / "events.npz") as arrays:
        return dict(arrays)


def test_the_exchange_holds_held_out_events_only_when_it_may(
    trained: Path, tiny_sequences: list[list[int]]
) -> None:
    choice, final = exchanged(trained.parent / "choice"), exchanged(trained)
    for arrays, held_out in ((choice, 2), (final, 1)):
        expected = [item for sequence in tiny_sequences for item in sequence[:-held_out]]
        assert arrays["events"].tolist() == expected
        lengths = [len(sequence) - held_out for sequence in tiny_sequences]
        assert np.diff(arrays["offsets"]).tolist() == lengths
    targets = [[user, sequence[-2]] for user, sequence in enumerate(tiny_sequences)]
    assert choice["valid"].tolist() == targets
    assert final["valid"].tolist() == []


def test_no_test_target_is_in_any_exchange(tiny_dataset: SequenceDataset, tmp_path: Path) -> None:
    """A set with other test targets, and nothing else, gives the same files to the last bit."""
    events = np.array(tiny_dataset.events)
    last = tiny_dataset.offsets[1:] - 1
    events[last] = events[last] % tiny_dataset.num_items + 1
    twin = replace(tiny_dataset, events=events)
    for name in ("choice", "final"):
        files = []
        for number, dataset in enumerate((tiny_dataset, twin)):
            known = dataset if name == "choice" else dataset.before_test()
            folder = tmp_path / f"{name}-{number}"
            write_exchange(folder, known, num_items=dataset.num_items, seed=0, settings={})
            files.append({file.name: file.read_bytes() for file in folder.iterdir()})
        assert files[0] == files[1]


def test_a_model_of_texts_is_given_those_of_our_students_and_follows_them(
    train: Train, baseline: Baseline, tiny_dataset: SequenceDataset, make_knowledge: Knowing
) -> None:
    """The knowledge lies in the output directory, where `make_knowledge` puts it."""
    reader = replace(baseline, reads_texts=True)
    knowledge = make_knowledge(tiny_dataset)
    folder = train(reader)
    assert train(reader) == folder
    assert trainings(folder) == ["0", "2"]
    for part in (folder.parent / "choice", folder):
        given = Exchange.open(part)
        assert given.texts is not None
        assert given.texts.tolist() == knowledge.text_components.tolist()
        assert len(given.texts) == given.num_items + 1
    make_knowledge(tiny_dataset, text_seed=1)
    assert trainings(train(reader)) == ["0", "2"] * 2


def test_a_model_of_texts_is_refused_without_them_and_others_are_given_none(
    train: Train, baseline: Baseline, trained: Path
) -> None:
    with pytest.raises(StaleKnowledgeError, match="Rebuild it: accelerate launch teacher/finetune"):
        train(replace(baseline, reads_texts=True))
    assert Exchange.open(trained).texts is None


@pytest.mark.parametrize("requirements", sorted({one.requirements for one in BASELINES}))
def test_every_requirement_of_a_baseline_is_pinned(requirements: Path) -> None:
    lines = [line for line in requirements.read_text().splitlines() if line[:1] not in ("", "#")]
    assert all(line.count("==") == 1 for line in lines)


@pytest.mark.parametrize("worker", sorted({one.worker for one in BASELINES}))
def test_workers_import_nothing_of_ours(worker: Path) -> None:
    ours = {"seqrec", "teacher", "student", "export", "benchmarks"}
    for file in (worker, HERE / "serving.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        names = {str(n.module).split(".")[0] for n in nodes if isinstance(n, ast.ImportFrom)}
        names |= {a.name.split(".")[0] for n in nodes if isinstance(n, ast.Import) for a in n.names}
        assert not names & ours
