"""Every file that is read, damaged at random. Entry point: `python -m tests.reliability.damage`.

Small samples of each format are written; then, try after try, one file of a copy is damaged: cut,
bits flipped, a stretch zeroed or doubled, emptied, removed, filled with text of all kinds; a value
of its JSON replaced by another type or by a huge number; its array header made to claim more than
there is. What reads it has to give a result or one line of a `SeqRecError`. Anything else is a
finding: another exception, more than two gigabytes on top, more than 20 seconds, and, where
checksums cover the file, that nobody noticed. Exit code 1 if there is one.

    tables       interactions and items as CSV, JSON lines and Parquet, for seqrec.prepare
    data         a prepared data set
    teacher      adapter and head, as teacher/finetune.py leaves them
    knowledge    what the teacher knows
    targets      soft targets; damaged ones have to be made anew as they were
    student      what student.distill leaves
    recommender  what export.to_onnx leaves
    text encoder what export.to_text_encoder leaves

Writes `fuzz.json` into the output directory: num_tries, seed, outcomes by format, findings with
their seeds.
"""

import contextlib
import json
import logging
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.config import flag, parse_flags
from seqrec.data import SequenceDataset, leave_one_out, load_dataset, write_dataset
from seqrec.errors import SeqRecError, run_main
from seqrec.files import sha256_file, write_json
from seqrec.knowledge import Knowledge, load_knowledge, save_knowledge
from seqrec.prepare import PrepareConfig, prepare

import numpy as np
import onnx
import polars as pl
import torch
from onnx import TensorProto, helper, numpy_helper
from tabulate import tabulate
from tokenizers import Tokenizer, models
from tqdm import tqdm

from export import text_encoder
from export.recommender import Recommender
from export.text_encoder import TextEncoder
from export.to_onnx import export_student
from student.model import Student, StudentConfig
from student.soft_targets import SoftTargets, prepare_soft_targets

NUM_ITEMS, NUM_USERS = 30, 40
MAX_SECONDS, MAX_MORE_BYTES = 20, 2 * 2**30
STRANGE_VALUES: tuple[Any, ...] = (None, True, -1, 0, 2**63, 1e308, "", "\ud800", [], {}, [[]], "9")
STRANGE_TEXT = (
    "\x00",
    "\ufeff",
    "\u202egnp.exe",
    "e\u0301\U0001f469\u200d\U0001f680",
    '"',
    ",,\n",
    "NaN",
    "-0",
    "1e400",
    "9" * 40,
    "x" * 100_000,
)


@dataclass(frozen=True, kw_only=True)
class FuzzConfig:
    """Flags of `tests.reliability.damage`."""

    output_dir: Path = flag(Path("runs/fuzz"), "directory to work in; it is emptied first")
    num_tries: int = flag(2000, "damaged inputs in all, shared by the formats")
    seed: int = flag(0, "seed of the damage")


@dataclass(frozen=True)
class Format:
    """A sample of a format, and what reads it."""

    name: str
    folder: Path
    read: Callable[[Path], object]
    checksummed: tuple[str, ...] = ()  # files whose every change has to be noticed


def write_samples(folder: Path) -> list[Format]:
    """Write a sample of each format into a folder."""
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(NUM_ITEMS)[: 3 + user % 20] + 1 for user in range(NUM_USERS)]
    lengths = np.array([len(sequence) for sequence in sequences])
    ids = [f"b{number}" for number in range(1, NUM_ITEMS + 1)]
    items = pl.DataFrame({"item_id": ids, "title": [f"Title {item}, ünï" for item in ids]})
    log = pl.DataFrame(
        {
            "user_id": np.repeat([f"u{user}" for user in range(NUM_USERS)], lengths),
            "item_id": [ids[item - 1] for sequence in sequences for item in sequence],
            "timestamp": 1_700_000_000 + np.arange(lengths.sum()),
        }
    )
    tables = folder / "tables"
    tables.mkdir(parents=True)
    for name, table in (("log", log), ("items", items)):
        table.write_csv(tables / f"{name}.csv")
        table.write_ndjson(tables / f"{name}.jsonl")
        table.write_parquet(tables / f"{name}.parquet")
    dataset = write_dataset(
        folder / "data",
        name="sample",
        items=items,
        user_ids=pl.Series([f"u{user}" for user in range(NUM_USERS)]),
        events=np.concatenate(sequences).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        split=leave_one_out(lengths),
        split_name="leave-one-out",
        provenance={},
    )
    num_prefixes = int(dataset.train_lengths.sum())
    save_knowledge(
        folder / "knowledge",
        dataset,
        iter([(np.arange(num_prefixes), rng.normal(size=(num_prefixes, 6)))]),
        rng.normal(size=(NUM_ITEMS + 1, 6)),
        text_components=rng.normal(size=(NUM_ITEMS + 1, 5)),
        text_map=rng.normal(size=(9, 5)),
        prefixes_per_user=100,
        teacher={"model": "none"},
    )
    torch.manual_seed(0)
    student = Student(StudentConfig(arch="gru", num_items=NUM_ITEMS, hidden_dim=8, max_len=9))
    about = {"role": "control", "dataset_fingerprint": dataset.fingerprint}
    student.save_pretrained(folder / "student", **about)
    export_student(folder / "student", dataset, folder / "recommender", "int8")

    knowledge = load_knowledge(folder / "knowledge", dataset)
    targets = _targets(folder / "targets", dataset, knowledge)
    write_teacher(folder / "language-model", folder / "teacher", dataset)
    write_text_encoder(folder / "text-encoder")

    def read_tables(place: Path) -> None:
        for suffix in ("csv", "jsonl", "parquet"):
            out = place / "out"
            shutil.rmtree(out, ignore_errors=True)
            with contextlib.suppress(SeqRecError):
                prepare(
                    PrepareConfig(
                        interactions=place / f"log.{suffix}",
                        items=place / f"items.{suffix}",
                        output_dir=out,
                    )
                )
                read_data(out)

    def read_data(place: Path) -> None:
        found = load_dataset(place)
        assert len(found.items) == len(found.item_ids) == found.num_items
        assert found.train_counts().sum() == found.train_lengths.sum()
        for part in ("valid", "test"):
            assert found.eval_targets(part).items.max(initial=1) <= found.num_items

    def read_targets(place: Path) -> None:
        found = _targets(place, dataset, knowledge)
        for name in ("item_ids", "log_probs"):
            assert np.array_equal(getattr(found, name), getattr(targets, name))

    def read_teacher(place: Path) -> None:
        from teacher.model import Teacher

        Teacher.from_pretrained(place)(torch.tensor([[1, 2]]))

    def read_student(place: Path) -> None:
        Student.from_pretrained(place)(torch.tensor([[1, 2]]))

    def read_recommender(place: Path) -> None:
        recommender = Recommender.from_pretrained(place)
        recommender.recommend([recommender.item_ids[0]], k=3)

    files = ("events.npy", "offsets.npy", "split.npy", "items.parquet", "user_ids.parquet")
    arrays = ("states.npy", "item_vectors.npy", "text_components.npy", "text_map.npy")
    return [
        Format("tables", tables, read_tables),
        Format("data", folder / "data", read_data, files),
        Format("knowledge", folder / "knowledge", lambda p: load_knowledge(p, dataset), arrays),
        Format("teacher", folder / "teacher", read_teacher),
        Format("targets", folder / "targets", read_targets),
        Format("student", folder / "student", read_student),
        Format(
            "recommender", folder / "recommender", read_recommender, ("model.onnx", "items.json")
        ),
        Format(
            "text encoder",
            folder / "text-encoder",
            lambda place: TextEncoder.from_pretrained(place).encode(["a b"]),
            ("model.onnx", "tokenizer.json"),
        ),
    ]


def _targets(folder: Path, dataset: SequenceDataset, knowledge: Knowledge) -> SoftTargets:
    where = torch.device("cpu")
    return prepare_soft_targets(
        folder, dataset, knowledge, [], teacher_weight=None, top_k=4, recipe={}, device=where
    )


def write_teacher(language_model: Path, folder: Path, dataset: SequenceDataset) -> None:
    """Write a teacher of random weights, and the language model of one layer that it stands on."""
    from transformers import LlamaConfig, LlamaModel

    from teacher.base import load_base
    from teacher.check_folder import model_fingerprint
    from teacher.model import Teacher, TeacherConfig, item_mask

    torch.manual_seed(0)
    width = 8
    shape = LlamaConfig(
        vocab_size=20,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    LlamaModel(shape).save_pretrained(language_model)
    config = TeacherConfig(
        model=str(language_model),
        model_fingerprint=model_fingerprint(language_model),
        dataset_fingerprint=dataset.fingerprint,
        bits=16,
        num_layers=1,
        num_items=NUM_ITEMS,
        item_dim=4,
        max_len=9,
        lora_rank=2,
        lora_alpha=4,
        dropout=0.0,
    )
    Teacher(
        load_base(language_model, bits=16, num_layers=1, device="cpu"),
        torch.randn(NUM_ITEMS + 1, 5),
        torch.randn(width + 1, 5),
        item_mask(np.zeros(0, dtype=np.int64), NUM_ITEMS),
        config,
    ).save_pretrained(folder)


def write_text_encoder(folder: Path) -> None:
    """Write a text encoder that looks a vector up for each word."""
    words = {word: number for number, word in enumerate(["[UNK]", "[PAD]", "a", "b"])}
    folder.mkdir()
    Tokenizer(models.WordLevel(words, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    table = numpy_helper.from_array(np.eye(len(words), dtype=np.float32), "table")
    numbers = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["N", "T"])
    states = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["N", "T", 4])
    node = helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])
    graph = helper.make_graph([node], "words", [numbers], [states], [table])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "model.onnx")
    about = {
        "format": text_encoder.FORMAT,
        "version": text_encoder.VERSION,
        "reader": {"max_tokens": 64},
        "sha256": {f: sha256_file(folder / f) for f in ("model.onnx", "tokenizer.json")},
    }
    write_json(folder / "config.json", about)


def damage(file: Path, rng: np.random.Generator) -> str:
    """Damage a file in place and say how."""
    content = bytearray(file.read_bytes())
    ways: list[Callable[[], str]] = [
        lambda: _cut(content, rng),
        lambda: _flip(content, rng),
        lambda: _stretch(content, rng),
        lambda: _insert(content, rng),
    ]
    if file.suffix == ".json":
        ways += 4 * [lambda: _replace_value(content, rng)]
    if file.suffix == ".npy":
        ways += 2 * [lambda: _claim(content, rng)]
    if rng.random() < 0.05:
        file.unlink()
        return "removed"
    how = ways[rng.integers(len(ways))]()
    file.write_bytes(content)
    return how


def _cut(content: bytearray, rng: np.random.Generator) -> str:
    del content[int(rng.integers(len(content) + 1)) :]
    return f"cut to {len(content)} bytes"


def _flip(content: bytearray, rng: np.random.Generator) -> str:
    count = int(rng.integers(1, 9))
    for place in rng.integers(0, max(len(content), 1), count):
        if content:
            content[place] ^= 1 << int(rng.integers(8))
    return f"{count} bits flipped"


def _stretch(content: bytearray, rng: np.random.Generator) -> str:
    first, last = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    if rng.random() < 0.5:
        content[first:last] = bytes(last - first)
        return f"bytes {first} to {last} zeroed"
    content[last:last] = content[first:last]
    return f"bytes {first} to {last} doubled"


def _insert(content: bytearray, rng: np.random.Generator) -> str:
    text = STRANGE_TEXT[rng.integers(len(STRANGE_TEXT))]
    place = int(rng.integers(len(content) + 1))
    content[place:place] = text.encode()
    return f"{text[:20]!r} at {place}"


def _replace_value(content: bytearray, rng: np.random.Generator) -> str:
    document = json.loads(content)
    value = STRANGE_VALUES[rng.integers(len(STRANGE_VALUES))]
    node, path = document, []
    while True:
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = keys[rng.integers(len(keys))]
        path.append(key)
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        node[key] = value
        break
    content[:] = json.dumps(document).encode()
    return f"{'.'.join(map(str, path))} = {value!r}"


def _claim(content: bytearray, rng: np.random.Generator) -> str:
    """Let an array's header claim another shape or type, of the same length in characters."""
    size = int.from_bytes(content[8:10], "little")
    header = bytes(content[10 : 10 + size]).decode("latin1")
    claims = ("(999999999999,)", "(-1,)", "(3, 3)", "(10**9,)", "()")
    start, end = header.find("("), header.find(")") + 1
    if rng.random() < 0.3:
        header = header.replace("<i4", "|O8").replace("<i8", "|O8").replace("<f2", "|O8")
    else:
        header = header[:start] + claims[rng.integers(len(claims))] + header[end:]
    content[10 : 10 + size] = header.encode("latin1")[:size].ljust(size)
    return f"header {header.strip()[:80]}"


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Allow the block so much time and memory; `TimeoutError`, `MemoryError` beyond."""

    def over(*_: object) -> None:
        raise TimeoutError(f"more than {MAX_SECONDS} s")

    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
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


def attempt(form: Format, work: Path, seed: Sequence[int]) -> dict[str, Any]:
    """Damage one file of a copy and read it; return what came of it."""
    rng = np.random.default_rng(seed)
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(form.folder, work)
    files = sorted(path for path in work.rglob("*") if path.is_file())
    file = files[rng.integers(len(files))]
    before = file.read_bytes()
    how = damage(file, rng)
    changed = not file.is_file() or file.read_bytes() != before
    outcome, said = "result", ""
    try:
        with bounded():
            form.read(work)
    except SeqRecError as error:
        outcome, said = "refused", " ".join(str(error).split())
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # Rust's panics are no `Exception`
        outcome, said = "finding", f"{type(error).__name__}: {error}"[:300]
    if outcome == "result" and changed and file.name in form.checksummed:
        outcome, said = "finding", "nobody noticed"
    about = {"format": form.name, "seed": list(seed), "file": file.name, "damage": how}
    return {**about, "outcome": outcome, "said": said}


def fuzz(config: FuzzConfig) -> list[dict[str, Any]]:
    """Make all tries; return what came of each."""
    shutil.rmtree(config.output_dir, ignore_errors=True)
    formats = write_samples(config.output_dir / "samples")
    logging.getLogger().setLevel(logging.ERROR)
    return [
        attempt(formats[number % len(formats)], config.output_dir / "work", (config.seed, number))
        for number in tqdm(range(config.num_tries), desc="fuzz", unit="try")
    ]


def summarise(tries: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Return the content of `fuzz.json`."""
    outcomes = {
        name: dict.fromkeys(("result", "refused", "finding"), 0)
        for name in dict.fromkeys(found["format"] for found in tries)
    }
    for found in tries:
        outcomes[found["format"]][found["outcome"]] += 1
    findings = [found for found in tries if found["outcome"] == "finding"]
    return {"num_tries": len(tries), "seed": seed, "outcomes": outcomes, "findings": findings}


def format_fuzz(found: dict[str, Any]) -> str:
    """Return the results as a text table, with the first findings below."""
    rows = [[name, *counts.values()] for name, counts in found["outcomes"].items()]
    lines = [
        f"{one['format']} {one['file']}, {one['damage']}: {one['said']}\n"
        for one in found["findings"][:20]
    ]
    table = tabulate(rows, headers=["format", "result", "refused", "finding"])
    tried = f"{found['num_tries']:,} tries, seed {found['seed']}"
    return f"{table}\n\n{tried}\n{''.join(lines)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Fuzz as the command line asks."""
    config = parse_flags(FuzzConfig, (__doc__ or "").partition("\n")[0], argv)
    found = summarise(fuzz(config), config.seed)
    write_json(config.output_dir / "fuzz.json", found)
    sys.stdout.write(format_fuzz(found))
    if found["findings"]:
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
