"""Students that start from an earlier run's: rows by id, what is refused, what is made again."""

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import seqrec.training
from seqrec.data import SequenceDataset, write_dataset
from seqrec.errors import SeqRecError
from seqrec.files import read_json, write_json
from seqrec.knowledge import Knowledge, load_knowledge, save_knowledge
from seqrec.schedule import WARM_EPOCHS
from seqrec.splits import leave_one_out

import numpy as np
import polars as pl
import pytest
import torch
from accelerate import Accelerator

from student.config import DistillConfig
from student.distilling import check_starts, flags_of, run
from student.model import Arch, Student
from student.text_map import FILE as TEXT_MAP_FILE
from student.text_map import TextMap
from student.warm_start import Start
from tests.student.conftest import same_weights, train

YESTERDAY = [f"item {number}" for number in range(1, 13)]
# Three are gone, two are new, and all bear other numbers.
TODAY = ["new one", *reversed(YESTERDAY[3:]), "new two"]
# Whole numbers, which half precision holds as they are; each map can be turned back.
MAPS = {
    "yesterday": np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1], [2, -1, 0]]),
    "another": np.array([[1, 0, 0], [-1, 1, 0], [2, 0, 1], [0, 1, 1]]),
}
READER = {"model": "m", "model_fingerprint": "f", "bits": 4, "num_layers": 2, "max_tokens": 64}


def text_vectors(item_ids: Sequence[str]) -> np.ndarray:
    """Return what a language model might read, whole numbers (N, 3): the same for the same id."""
    drawn = [np.random.default_rng(list(name.encode())).integers(-4, 5, 3) for name in item_ids]
    return np.array(drawn)


def shop(folder: Path, item_ids: list[str]) -> SequenceDataset:
    """Write a data set of thirty users, in which the last item is in no one's training events."""
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(len(item_ids) - 1)[:7] + 1 for _ in range(30)]
    lengths = np.full(len(sequences), 7)
    return write_dataset(
        folder,
        name=folder.name,
        items=pl.DataFrame({"item_id": item_ids, "title": item_ids}),
        user_ids=pl.Series([f"u{user}" for user in range(len(sequences))]),
        events=np.concatenate(sequences).astype(np.int32),
        offsets=np.arange(len(sequences) + 1) * 7,
        split=leave_one_out(lengths),
        split_name="leave-one-out",
        provenance={},
    )


def knowledge_of(
    run: Path, dataset: SequenceDataset, made_by: str = "yesterday", **reader: Any
) -> Knowledge:
    affine, rng = MAPS[made_by], np.random.default_rng(0)
    components = np.zeros((dataset.num_items + 1, 3))
    components[1:] = text_vectors(dataset.item_ids) @ affine[:-1] + affine[-1]
    num_prefixes = int(dataset.train_lengths.sum())
    save_knowledge(
        run / "knowledge",
        dataset,
        iter([(np.arange(num_prefixes), rng.normal(size=(num_prefixes, 6)))]),
        rng.normal(size=(dataset.num_items + 1, 6)),
        text_components=components,
        text_map=affine,
        prefixes_per_user=100,
        teacher={**READER, **reader},
    )
    return load_knowledge(run / "knowledge", dataset)


@dataclasses.dataclass(frozen=True)
class Days:
    """An earlier run, and the data set of today with its knowledge."""

    run: Path
    earlier: SequenceDataset
    dataset: SequenceDataset
    knowledge: Knowledge
    config: DistillConfig  # of today's run

    def folder(self, arch: Arch, role: str = "distilled") -> Path:
        return self.run / "students" / arch / role


@pytest.fixture
def days(config: DistillConfig, tmp_path: Path) -> Days:
    """A GRU and its control, refitted, and a Transformer; today's run starts from them."""
    run = tmp_path / "earlier"
    earlier, dataset = shop(tmp_path / "a", YESTERDAY), shop(tmp_path / "b", TODAY)
    known = knowledge_of(run, earlier)
    first = dataclasses.replace(
        config, output_dir=run, num_epochs=3, refit_share=0.67, cold_item_scale=0.5
    )
    first = dataclasses.replace(first, kd_weight=0.0, learning_rate=0.03)
    for arch in ("gru", "transformer"):
        for knowledge in (known, None):
            train(arch, first, earlier, knowledge)
    assert config.output_dir is not None
    today = dataclasses.replace(
        config, init_from=run, cold_item_scale=1.0, num_epochs=2, refit_share=0.5
    )
    return Days(run, earlier, dataset, knowledge_of(config.output_dir, dataset), today)


def numbers(item_ids: Sequence[str], dataset: SequenceDataset) -> list[int]:
    return [dataset.item_ids.index(name) + 1 for name in item_ids]


# Rows by id.


@pytest.mark.parametrize("part", [".", "selection"])
@pytest.mark.parametrize("made_by", ["yesterday", "another"])
@pytest.mark.parametrize("arch", ["gru", "transformer"])
def test_before_any_step_a_student_answers_as_the_earlier_one_does(
    days: Days, arch: Arch, made_by: str, part: str
) -> None:
    config = dataclasses.replace(days.config, num_epochs=0)
    assert config.output_dir is not None
    knowledge = knowledge_of(config.output_dir, days.dataset, made_by)
    train(arch, config, days.dataset, knowledge)
    folder = config.output_dir / "students" / arch / "distilled" / part
    student, earlier = (
        Student.from_pretrained(place) for place in (folder, days.folder(arch) / part)
    )
    common = YESTERDAY[3:]
    history = [common[i] for i in (4, 0, 7, 2)]
    with torch.inference_mode():
        scores = [
            model(torch.tensor([numbers(history, data)]))[0, numbers(common, data)]
            for model, data in ((student, days.dataset), (earlier, days.earlier))
        ]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-5)
    # A new item is what the earlier text map makes of its text.
    new = ["new one", "new two"]
    rows = student.item_embedding.weight[numbers(new, days.dataset)].detach().numpy()
    expected = TextMap.load(days.folder(arch) / part / TEXT_MAP_FILE).rows(text_vectors(new))
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)
    # And so it is for those that come tomorrow.
    text_map = TextMap.load(folder / TEXT_MAP_FILE)
    projected = expected - TextMap.load(days.folder(arch) / part / TEXT_MAP_FILE).bias
    np.testing.assert_allclose(
        text_map.rows(text_vectors(new)) - text_map.bias, projected, rtol=1e-4, atol=1e-5
    )


def test_what_is_shipped_starts_from_what_knew_all_and_what_validates_from_what_did_not(
    days: Days,
) -> None:
    """At a learning rate of next to nothing both are what they started from."""
    config = dataclasses.replace(days.config, learning_rate=1e-9, refit_share=1.0, kd_weight=0.0)
    train("gru", config, days.dataset, days.knowledge)
    assert config.output_dir is not None
    folder, common = config.output_dir / "students" / "gru" / "distilled", YESTERDAY[3:]
    for part in (".", "selection"):
        rows, earlier_rows = (
            Student.from_pretrained(place / part).item_embedding.weight[numbers(common, data)]
            for place, data in ((folder, days.dataset), (days.folder("gru"), days.earlier))
        )
        torch.testing.assert_close(rows, earlier_rows, rtol=1e-4, atol=1e-5)
    selected = Student.from_pretrained(folder / "selection")
    assert not same_weights(selected, Student.from_pretrained(folder))


def test_without_a_refit_a_trained_start_is_what_was_selected(days: Days) -> None:
    config = dataclasses.replace(days.config, refit_share=0.0, kd_weight=0.0)
    student = train("gru", config, days.dataset, days.knowledge)
    assert config.output_dir is not None
    folder = config.output_dir / "students" / "gru" / "distilled"
    assert not (folder / "selection").exists()
    before = Student.from_pretrained(days.folder("gru")).item_embedding.weight
    after = student.item_embedding.weight
    known = [numbers(YESTERDAY[3:], data) for data in (days.earlier, days.dataset)]
    assert (before[known[0]] - after[known[1]]).abs().max() > 1e-2


def test_a_control_takes_over_rows_by_id_too(days: Days) -> None:
    train("gru", dataclasses.replace(days.config, num_epochs=0), days.dataset, None)
    assert days.config.output_dir is not None
    student = Student.from_pretrained(days.config.output_dir / "students" / "gru" / "control")
    earlier = Student.from_pretrained(days.folder("gru", "control"))
    rows = student.item_embedding.weight[numbers(YESTERDAY[3:], days.dataset)]
    assert torch.equal(rows, earlier.item_embedding.weight[numbers(YESTERDAY[3:], days.earlier)])
    assert (student.item_embedding.weight[0] == 0).all()


def test_of_a_run_that_does_not_know_the_catalogue_students_take_nothing(
    days: Days, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = shop(tmp_path / "others", [f"other {number}" for number in range(8)])
    config = dataclasses.replace(days.config, data_dir=dataset.path, arch="gru", num_epochs=1)
    assert config.output_dir is not None
    knowledge_of(config.output_dir, dataset)
    folder = config.output_dir / "students" / "gru" / "distilled"
    with caplog.at_level(logging.INFO):
        run(config)
    assert f"knows no item of {dataset.path}" in caplog.text
    started = Student.from_pretrained(folder)
    run(dataclasses.replace(config, init_from=None))
    assert same_weights(started, Student.from_pretrained(folder))


def test_it_is_said_how_many_items_are_known(days: Days, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        check_starts(["gru"], days.config, days.dataset, days.knowledge, Accelerator(cpu=True))
    assert "knows 9 of the 11 items" in caplog.text


# The teaching.


def test_the_earlier_students_are_the_auxiliary_teachers(days: Days, trained: list[str]) -> None:
    train("gru", days.config, days.dataset, days.knowledge)
    assert trained == ["gru distilled", "gru distilled refit"]
    assert days.config.output_dir is not None
    for arch in ("gru", "transformer"):
        (folder,) = (days.config.output_dir / "auxiliary-teachers").glob(f"{arch}-*")
        for part in (".", "selection"):  # the latter is asked for what is validated
            auxiliary = Student.from_pretrained(folder / part).item_embedding.weight
            earlier = Student.from_pretrained(days.folder(arch) / part).item_embedding.weight
            torch.testing.assert_close(
                auxiliary[numbers(YESTERDAY[3:], days.dataset)],
                earlier[numbers(YESTERDAY[3:], days.earlier)],
            )


def test_an_architecture_that_the_earlier_run_lacks_is_no_auxiliary_teacher(days: Days) -> None:
    shutil.rmtree(days.folder("transformer"))
    train("gru", days.config, days.dataset, days.knowledge)
    assert days.config.output_dir is not None
    folders = list((days.config.output_dir / "auxiliary-teachers").iterdir())
    assert [folder.name.partition("-")[0] for folder in folders] == ["gru"]


def test_flags_that_are_given_go_before_the_rules_and_the_width_is_the_earlier_one(
    days: Days,
) -> None:
    open_flags = dataclasses.replace(days.config, num_epochs=None, hidden_dim=None)
    flags = flags_of("gru", open_flags, days.dataset, days.knowledge)
    assert (flags.num_epochs, flags.hidden_dim) == (WARM_EPOCHS, 8)
    flags = flags_of("gru", days.config, days.dataset, days.knowledge)
    assert flags.num_epochs == 2


# Run again, and killed.


def test_another_earlier_student_makes_it_again_and_a_moved_run_does_not(
    days: Days, trained: list[str], tmp_path: Path
) -> None:
    train("gru", days.config, days.dataset, days.knowledge)
    trained.clear()
    moved = days.run.rename(tmp_path / "moved")
    config = dataclasses.replace(days.config, init_from=moved)
    train("gru", config, days.dataset, days.knowledge)
    assert trained == []
    distilled = moved / "students" / "gru" / "distilled"
    shutil.copytree(distilled / "selection", distilled, dirs_exist_ok=True)
    train("gru", config, days.dataset, days.knowledge)
    assert trained == ["gru distilled", "gru distilled refit"]


@pytest.mark.parametrize("number", [1, 3])  # in the selection, in the refit
def test_a_killed_start_goes_on_to_the_same_end(
    days: Days, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    torch.set_num_threads(1)
    config = dataclasses.replace(days.config, refit_share=1.0, kd_weight=0.0)
    assert config.output_dir is not None
    beside = dataclasses.replace(config, output_dir=config.output_dir / "unbroken")
    unbroken = train("gru", beside, days.dataset, days.knowledge)
    save, saved = seqrec.training._save_checkpoint, []

    def save_and_die(*arguments: Any) -> None:
        save(*arguments)
        saved.append(arguments[1].epoch)
        if len(saved) == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(seqrec.training, "_save_checkpoint", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train("gru", config, days.dataset, days.knowledge)
    assert same_weights(unbroken, train("gru", config, days.dataset, days.knowledge))
    assert saved == [1, 2, 1, 2]


# What is refused.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_dim": 16}, "has hidden_dim 8, this run has 16. Type --hidden-dim 8"),
        ({"max_len": 9}, "has max_len 8, this run has 9. Type --max-len 8"),
        ({"num_layers": 2}, "has num_layers 1, this run has 2. Type --num-layers 1"),
        ({"item_table": "plain"}, "has item_table fused, this run has plain. Type --item-table f"),
        ({"init_from": Path("nowhere")}, "there is no finished students/gru/control"),
    ],
)
def test_a_start_that_cannot_be_made_is_refused(
    days: Days, trained: list[str], change: dict[str, Any], message: str
) -> None:
    config = dataclasses.replace(days.config, **change)
    with pytest.raises(SeqRecError, match=message):
        check_starts(["gru"], config, days.dataset, days.knowledge, Accelerator(cpu=True))
    assert trained == []


def test_an_unfinished_run_and_the_run_itself_are_refused(days: Days) -> None:
    def refusal(config: DistillConfig) -> str:
        with pytest.raises(SeqRecError) as raised:
            check_starts(["gru"], config, days.dataset, days.knowledge, Accelerator(cpu=True))
        return str(raised.value)

    itself = dataclasses.replace(days.config, output_dir=days.run)
    assert "Give another --output-dir" in refusal(itself)
    described = read_json(days.run / "knowledge" / "meta.json")
    del described["sha256"]["item_ids"]  # as older versions wrote it
    write_json(days.run / "knowledge" / "meta.json", described)
    assert "accelerate launch -m teacher.extract --output-dir" in refusal(days.config)
    knowledge_of(days.run, days.dataset)  # the teacher has gone on to other data
    assert "Finish that run first" in refusal(days.config)
    shutil.rmtree(days.folder("gru", "control"))
    assert "there is no finished students/gru/control" in refusal(days.config)


@pytest.mark.parametrize(
    "name", ["recipe.json", "config.json", "model.safetensors", "selection/model.safetensors"]
)
def test_a_student_with_a_file_cut_short_is_refused(days: Days, name: str) -> None:
    file = days.folder("gru") / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(SeqRecError, match=r"is damaged|no usable student"):
        check_starts(["gru"], days.config, days.dataset, days.knowledge, Accelerator(cpu=True))


def test_files_of_another_run_are_refused(days: Days) -> None:
    folder = days.folder("gru")
    for file in ("model.safetensors", TEXT_MAP_FILE):  # those of a student of the same shape
        kept = (folder / file).read_bytes()
        (folder / file).write_bytes((folder / "selection" / file).read_bytes())
        with pytest.raises(SeqRecError, match=rf"{file} is not the file that was written here"):
            check_starts(["gru"], days.config, days.dataset, days.knowledge, Accelerator(cpu=True))
        (folder / file).write_bytes(kept)
    described = read_json(folder / "config.json")
    write_json(folder / "config.json", described | {"dataset_fingerprint": "another"})
    with pytest.raises(SeqRecError, match=r"config.json is of data set another"):
        check_starts(["gru"], days.config, days.dataset, days.knowledge, Accelerator(cpu=True))


@pytest.mark.parametrize("change", [{"num_layers": 4}, {"bits": 16}, {"model_fingerprint": "g"}])
def test_texts_that_another_language_model_read_are_refused(
    days: Days, change: dict[str, Any]
) -> None:
    assert days.config.output_dir is not None
    other = knowledge_of(days.config.output_dir, days.dataset, **change)
    with pytest.raises(SeqRecError, match="Tune the teacher with the same language model"):
        check_starts(["gru"], days.config, days.dataset, other, Accelerator(cpu=True))


def test_without_a_start_there_is_none() -> None:
    assert Start.of("gru", DistillConfig(), is_control=True) is None
