"""Every file that is read, damaged at random: a result, or one line of a `SeqRecError`.

Anything else fails: another exception, more than two gigabytes on top, more than 20 seconds, and,
where checksums cover the file, that nobody noticed. `SEQREC_TRIES` says how often each format is
damaged; `make torture` sets more.
"""

import contextlib
import io
import json
import logging
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import SeqRecError
from seqrec.files import sha256_file, write_json
from seqrec.knowledge import Knowledge, load_knowledge
from seqrec.prepare import PrepareConfig, prepare

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models

from export.new_items.text_encoder import TEXT_ENCODER, TextEncoder
from export.recommender import Recommender
from student.model import Student
from student.soft_targets import SoftTargets, prepare_soft_targets
from teacher.model import Teacher
from teacher.tuning import build_teacher
from tests.export.answers import export_random
from tests.teacher.models import flags_for

pytestmark = pytest.mark.slow

TRIES = int(os.environ.get("SEQREC_TRIES", "20"))  # of each format
MAX_SECONDS, MAX_MORE_BYTES = 20, 2 * 2**30
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Format:
    """A small sample of a format that is read, and what reads it."""

    folder: Path
    read: Callable[[Path], object]
    checksummed: tuple[str, ...] = ()  # files whose every change has to be noticed


def read_data(folder: Path) -> None:
    dataset = load_dataset(folder)
    assert len(dataset.items) == len(dataset.item_ids) == dataset.num_items
    assert dataset.train_counts().sum() == dataset.train_lengths.sum()
    assert dataset.eval_targets("valid").items.max(initial=1) <= dataset.num_items
    assert dataset.eval_targets("test").items.max(initial=1) <= dataset.num_items


@pytest.fixture
def data(tiny_dataset: SequenceDataset) -> Format:
    files = ("events.npy", "offsets.npy", "split.npy", "items.parquet", "user_ids.parquet")
    return Format(tiny_dataset.path, read_data, files)


@pytest.fixture
def tables(tiny_dataset: SequenceDataset, tmp_path: Path) -> Format:
    log = pl.DataFrame(
        [
            {"user_id": f"u{user}", "item_id": tiny_dataset.item_ids[item - 1], "timestamp": when}
            for user in range(tiny_dataset.num_users)
            for when, item in enumerate(tiny_dataset.sequence(user))
        ]
    )
    made = tmp_path / "tables"
    made.mkdir()
    for name, table in (("log", log), ("items", tiny_dataset.items)):
        table.write_csv(made / f"{name}.csv")
        table.write_ndjson(made / f"{name}.jsonl")
        table.write_parquet(made / f"{name}.parquet")

    def read(folder: Path) -> None:
        out = folder / "out"
        for suffix in ("csv", "jsonl", "parquet"):
            shutil.rmtree(out, ignore_errors=True)
            log, items = (folder / f"{name}.{suffix}" for name in ("log", "items"))
            with contextlib.suppress(SeqRecError):
                prepare(PrepareConfig(interactions=log, items=items, output_dir=out))
                read_data(out)

    return Format(made, read)


@pytest.fixture
def knowledge(tiny_dataset: SequenceDataset, make_knowledge: Callable[..., Knowledge]) -> Format:
    arrays = ("states.npy", "item_vectors.npy", "text_components.npy", "text_map.npy")
    folder = make_knowledge(tiny_dataset).path
    return Format(folder, lambda folder: load_knowledge(folder, tiny_dataset), arrays)


@pytest.fixture
def teacher(tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path: Path) -> Format:
    flags = flags_for(tiny_llm, bits=16)
    build_teacher(flags, tiny_dataset, CPU).save_pretrained(tmp_path / "teacher")
    return Format(
        tmp_path / "teacher", lambda f: Teacher.from_pretrained(f)(torch.tensor([[1, 2]]))
    )


@pytest.fixture
def targets(
    tiny_dataset: SequenceDataset, make_knowledge: Callable[..., Knowledge], tmp_path: Path
) -> Format:
    known = make_knowledge(tiny_dataset)

    def open_or_make(folder: Path) -> SoftTargets:
        how: dict[str, Any] = {"teacher_weight": None, "top_k": 4, "recipe": {}, "device": CPU}
        return prepare_soft_targets(folder, tiny_dataset, known, [], **how)

    made = open_or_make(tmp_path / "targets")

    def read(folder: Path) -> None:
        again = open_or_make(folder)
        assert np.array_equal(again.item_ids, made.item_ids)
        assert np.array_equal(again.log_probs, made.log_probs)

    return Format(tmp_path / "targets", read)


@pytest.fixture
def student(
    tiny_dataset: SequenceDataset, save_student: Callable[..., Path], tmp_path: Path
) -> Format:
    folder = save_student(tmp_path / "student", tiny_dataset, hidden_dim=8, max_len=9)
    return Format(folder, lambda f: Student.from_pretrained(f)(torch.tensor([[1, 2]])))


@pytest.fixture
def recommender(tiny_dataset: SequenceDataset, tmp_path: Path) -> Format:
    def read(folder: Path) -> None:
        opened = Recommender.from_pretrained(folder)
        opened.recommend([opened.item_ids[0]], k=3)

    folder = export_random(tmp_path, tiny_dataset, "gru", "int8", hidden_dim=8, max_len=9)
    return Format(folder, read, ("model.onnx", "items.json"))


@pytest.fixture
def text_encoder(tmp_path: Path) -> Format:
    """A text encoder that looks a vector up for each word."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    words = {word: number for number, word in enumerate(["[UNK]", "[PAD]", "a", "b"])}
    Tokenizer(models.WordLevel(words, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    table = numpy_helper.from_array(np.eye(len(words), dtype=np.float32), "table")
    numbers = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["N", "T"])
    states = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["N", "T", 4])
    node = helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])
    graph = helper.make_graph([node], "words", [numbers], [states], [table])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "model.onnx")
    files = ("model.onnx", "tokenizer.json")
    sums = {name: sha256_file(folder / name) for name in files}
    kind = {"format": TEXT_ENCODER.format, "version": TEXT_ENCODER.version}
    write_json(folder / "config.json", {**kind, "reader": {"max_tokens": 64}, "sha256": sums})
    return Format(folder, lambda f: TextEncoder.from_pretrained(f).encode(["a b"]), files)


# --- Damage ---------------------------------------------------------------------------------------

TEXT = st.text(max_size=20) | st.sampled_from(
    ["\ufeff", "\u202egnp.exe", ",,\n", "NaN", "-0", "1e400", "9" * 40, "x" * 100_000]
)
VALUES = st.sampled_from(
    [None, True, -1, 0, 2**63, 1e308, float("nan"), "", "\ud800", [], {}, [[]], "9"]
)
CLAIMS = ("(999999999999,)", "(-1,)", "(3, 3)", "(10**9,)", "()")
Draw = Callable[[st.SearchStrategy[Any]], Any]


def cut(content: bytes, draw: Draw) -> bytes:
    return content[: draw(st.integers(0, len(content)))]


def flip_bits(content: bytes, draw: Draw) -> bytes:
    changed = bytearray(content)
    for position in draw(st.lists(st.integers(0, max(len(content) - 1, 0)), max_size=8)):
        if content:
            changed[position] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def zero_or_double(content: bytes, draw: Draw) -> bytes:
    first, last = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    middle = draw(st.sampled_from([bytes(last - first), 2 * content[first:last]]))
    return bytes(content[:first] + middle + content[last:])


def insert_text(content: bytes, draw: Draw) -> bytes:
    position = draw(st.integers(0, len(content)))
    return content[:position] + draw(TEXT).encode(errors="replace") + content[position:]


def replace_value(content: bytes, draw: Draw) -> bytes:
    """Replace a value of JSON by one of another type, or by a huge number."""
    document = json.loads(content)
    node = document
    while isinstance(node, dict | list) and node:
        key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
            node = node[key]
            continue
        node[key] = draw(VALUES)
        break
    return json.dumps(document).encode()


def claim(content: bytes, draw: Draw) -> bytes:
    """Let an array's header claim another shape or type, of the same length in characters."""
    size = int.from_bytes(content[8:10], "little")
    header = content[10 : 10 + size].decode("latin1")
    start, end = header.find("("), header.find(")") + 1
    shape = draw(st.sampled_from([*CLAIMS, header[start:end]]))
    header = header[:start] + shape + header[end:]
    if draw(st.booleans()):
        header = header.replace("<i4", "|O8").replace("<i8", "|O8").replace("<f2", "|O8")
    return content[:10] + header.encode("latin1")[:size].ljust(size) + content[10 + size :]


def damage(file: Path, draw: Draw) -> None:
    """Damage a file in place, or remove it."""
    ways = [cut, flip_bits, zero_or_double, insert_text]
    ways += {".json": 4 * [replace_value], ".npy": 2 * [claim]}.get(file.suffix, [])
    if draw(st.integers(0, 19)) == 0:
        file.unlink()
    else:
        file.write_bytes(draw(st.sampled_from(ways))(file.read_bytes(), draw))


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Allow the block so much time and memory; `TimeoutError`, `MemoryError` beyond."""

    def over(*_: object) -> None:
        raise TimeoutError(f"more than {MAX_SECONDS} s")

    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, over)
    signal.alarm(MAX_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MAX_MORE_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def read_damaged(form: Format, work: Path, tries: int) -> None:
    """Damage one file of a copy and read it, so often: refused, or nothing was to be noticed."""

    @settings(
        max_examples=tries,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def attempt(drawn: st.DataObject) -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(form.folder, work)
        file = drawn.draw(st.sampled_from(sorted(p for p in work.rglob("*") if p.is_file())))
        before = file.read_bytes()
        damage(file, drawn.draw)
        changed = not file.is_file() or file.read_bytes() != before
        try:
            with bounded():
                form.read(work)
        except SeqRecError:
            return
        assert not (changed and file.name in form.checksummed), "nobody noticed"

    attempt()


@pytest.mark.parametrize(
    "name",
    [
        *("tables", "data", "knowledge", "teacher", "targets", "student", "recommender"),
        "text_encoder",
    ],
)
def test_damage_is_refused_or_does_no_harm(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    caplog.set_level(logging.ERROR)
    read_damaged(request.getfixturevalue(name), tmp_path / "work", TRIES)


def test_a_reader_that_ignores_all_checks_is_caught(
    tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    careless = Format(tiny_dataset.path, lambda folder: None, ("events.npy", "split.npy"))
    with pytest.raises(AssertionError, match="nobody noticed"):
        read_damaged(careless, tmp_path / "work", 50)


def test_an_array_that_claims_too_much_is_still_an_array_file() -> None:
    file = io.BytesIO()
    np.save(file, np.arange(3))
    drawn = iter(["(10**9,)", True])  # a shape, and that the type changes, too
    claimed = claim(file.getvalue(), lambda _: next(drawn))
    assert b"(10**9,)" in claimed
    assert b"|O8" in claimed
    assert claimed[:6] == b"\x93NUMPY"
    assert len(claimed) == len(file.getvalue())
