import dataclasses
from collections.abc import Iterator
from pathlib import Path

from seqrec.batching import prefix_offsets
from seqrec.data import SequenceDataset
from seqrec.errors import SeqRecError, StaleKnowledgeError
from seqrec.files import read_json, sha256_file, write_json
from seqrec.knowledge import ARRAYS, knowledge_bytes, load_knowledge, save_knowledge

import numpy as np
import pytest

DIM = 8


def states_of(prefixes: np.ndarray) -> np.ndarray:
    """Return a state of its own for each prefix, (N, DIM), exact in float16."""
    return (prefixes[:, None] + np.arange(DIM)).astype(np.float64)


def fake_answers(dataset: SequenceDataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Answer every prefix with its state, in a shuffled order."""
    prefixes = np.random.default_rng(0).permutation(prefix_offsets(dataset)[-1])
    for chosen in np.array_split(prefixes, 7):
        yield chosen, states_of(chosen)


def save(
    path: Path,
    dataset: SequenceDataset,
    prefixes_per_user: int = 1000,
    answers: Iterator[tuple[np.ndarray, np.ndarray]] | None = None,
) -> None:
    vectors = np.random.default_rng(0).normal(size=(dataset.num_items + 1, DIM))
    save_knowledge(
        path,
        dataset,
        fake_answers(dataset) if answers is None else answers,
        vectors,
        text_components=np.eye(dataset.num_items + 1, 6),
        text_map=np.arange(54.0).reshape(9, 6),
        prefixes_per_user=prefixes_per_user,
        teacher={"model": "fake"},
    )


@pytest.mark.parametrize("prefixes_per_user", [1, 4, 1000])
def test_each_prefix_gets_back_its_own_answer(
    tiny_dataset: SequenceDataset, tmp_path: Path, prefixes_per_user: int
) -> None:
    save(tmp_path / "knowledge", tiny_dataset, prefixes_per_user)
    knowledge = load_knowledge(tmp_path / "knowledge", tiny_dataset)
    offsets = prefix_offsets(tiny_dataset)
    for user in range(tiny_dataset.num_users):
        prefixes = np.arange(offsets[user], offsets[user + 1])
        rows = knowledge.rows[prefixes]
        assert (rows[-prefixes_per_user:] >= 0).all()
        assert (rows[:-prefixes_per_user] == -1).all()
        for prefix, row in zip(prefixes, rows, strict=True):
            if row >= 0:
                assert np.array_equal(knowledge.states[row], states_of(np.array([prefix]))[0])
    used = knowledge.rows[knowledge.rows >= 0]
    assert sorted(used) == list(range(len(knowledge.states)))  # no row is shared, none is idle
    stated = knowledge_bytes(tiny_dataset, DIM, prefixes_per_user)
    assert stated == knowledge.states.nbytes == len(used) * DIM * 2  # two bytes a number
    assert np.array_equal(knowledge.text_components, np.eye(tiny_dataset.num_items + 1, 6))
    assert np.array_equal(knowledge.text_map, np.arange(54.0).reshape(9, 6))


@pytest.mark.parametrize("prefixes_per_user", [2, 1000])
def test_a_teacher_that_was_not_refitted_answers_the_same_prefixes_of_the_longer_sequences(
    tiny_dataset: SequenceDataset, tmp_path: Path, prefixes_per_user: int
) -> None:
    save(tmp_path / "knowledge", tiny_dataset, prefixes_per_user)
    knowledge = load_knowledge(tmp_path / "knowledge", tiny_dataset)
    longer = knowledge.before_test(tiny_dataset)
    old, new = prefix_offsets(tiny_dataset), prefix_offsets(tiny_dataset.before_test())
    for user in range(tiny_dataset.num_users):
        before, after = (
            k.rows[offsets[user] : offsets[user + 1]].tolist()
            for k, offsets in ((knowledge, old), (longer, new))
        )
        assert after == [*before, -1]  # every user here has one validation event


def test_a_refitted_teacher_answers_the_longer_sequences_itself(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    complete = tiny_dataset.before_test()
    save(tmp_path / "knowledge", complete, 1000)
    save(tmp_path / "knowledge" / "selection", tiny_dataset, 1000)
    knowledge = load_knowledge(tmp_path / "knowledge", tiny_dataset)
    assert len(knowledge.states) == tiny_dataset.train_lengths.sum()  # what may be validated
    refitted = knowledge.before_test(tiny_dataset)
    assert len(refitted.states) == complete.train_lengths.sum()
    assert (refitted.rows >= 0).all()


def test_a_teacher_that_leaves_a_prefix_out_writes_nothing(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    last = prefix_offsets(tiny_dataset)[-1] - 1  # a user's longest prefix
    answered = [(p[p != last], s[p != last]) for p, s in fake_answers(tiny_dataset)]
    with pytest.raises(AssertionError, match="unanswered"):
        save(tmp_path / "knowledge", tiny_dataset, answers=iter(answered))
    assert not (tmp_path / "knowledge").exists()


def test_missing_knowledge_is_refused_with_the_command_that_makes_it(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    with pytest.raises(StaleKnowledgeError, match=r"accelerate launch teacher/finetune.py --data"):
        load_knowledge(tmp_path / "knowledge", tiny_dataset)
    # With a teacher at hand only its answers are asked for again.
    metrics = {"dataset_fingerprint": tiny_dataset.fingerprint}
    write_json(tmp_path / "teacher" / "metrics.json", metrics)
    with pytest.raises(StaleKnowledgeError, match=r"accelerate launch -m teacher.extract --data"):
        load_knowledge(tmp_path / "knowledge", tiny_dataset)


@pytest.mark.parametrize("name", [f"{name}.npy" for name in ARRAYS])
@pytest.mark.parametrize("damage", ["one byte changed", "cut short", "removed"])
def test_damaged_knowledge_is_refused_with_the_command_that_rebuilds_it(
    tiny_dataset: SequenceDataset, tmp_path: Path, name: str, damage: str
) -> None:
    save(tmp_path / "knowledge", tiny_dataset)
    file = tmp_path / "knowledge" / name
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    if damage == "one byte changed":
        file.write_bytes(content)
    elif damage == "cut short":
        file.write_bytes(content[:-100])
    else:
        file.unlink()
    with pytest.raises(StaleKnowledgeError, match=rf"{name}.*Rebuild it: accelerate launch"):
        load_knowledge(tmp_path / "knowledge", tiny_dataset)


@pytest.mark.parametrize("value", [np.nan, 70_000.0])  # float16 ends at 65,504
def test_answers_that_are_no_numbers_are_not_written(
    tiny_dataset: SequenceDataset, tmp_path: Path, value: float
) -> None:
    def broken() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for prefixes, states in fake_answers(tiny_dataset):
            states[-1, 0] = value
            yield prefixes, states

    with pytest.raises(SeqRecError, match="the teacher's states hold NaN"):
        save(tmp_path / "knowledge", tiny_dataset, answers=broken())
    assert list(tmp_path.glob("*knowledge*")) == []


@pytest.mark.parametrize("name", ARRAYS)
def test_numbers_that_are_none_are_refused_behind_a_checksum_made_anew(
    tiny_dataset: SequenceDataset, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "knowledge"
    save(folder, tiny_dataset)
    file = folder / f"{name}.npy"
    array = np.load(file)
    array[1, 2] = np.inf
    np.save(file, array)
    meta = read_json(folder / "meta.json")
    meta["sha256"][name] = sha256_file(file)
    write_json(folder / "meta.json", meta)
    with pytest.raises(StaleKnowledgeError, match=rf"{name}.npy holds NaN or infinity.*Rebuild"):
        load_knowledge(folder, tiny_dataset)


def test_knowledge_of_other_data_or_of_another_version_is_refused(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    save(tmp_path / "knowledge", tiny_dataset)
    other = dataclasses.replace(tiny_dataset, meta={**tiny_dataset.meta, "fingerprint": "0" * 64})
    with pytest.raises(StaleKnowledgeError, match="was made from data set"):
        load_knowledge(tmp_path / "knowledge", other)
    file = tmp_path / "knowledge" / "meta.json"
    write_json(file, {**read_json(file), "version": 99})
    with pytest.raises(StaleKnowledgeError, match="99, expected seqrec-knowledge version 3"):
        load_knowledge(tmp_path / "knowledge", tiny_dataset)
