"""A small sample of each format that is read, and what reads it."""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from seqrec.data import SequenceDataset, load_dataset, write_dataset
from seqrec.errors import SeqRecError
from seqrec.files import sha256_file, write_json
from seqrec.knowledge import Knowledge, load_knowledge, save_knowledge
from seqrec.prepare import PrepareConfig, prepare
from seqrec.splits import leave_one_out

import numpy as np
import onnx
import polars as pl
import torch
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models

from export.new_items.text_encoder import TEXT_ENCODER, TextEncoder
from export.onnx_graph.exporting import export_student
from export.recommender import Recommender
from student.model import Student, StudentConfig
from student.soft_targets import SoftTargets, prepare_soft_targets

NUM_ITEMS, NUM_USERS = 30, 40


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
        "format": TEXT_ENCODER.format,
        "version": TEXT_ENCODER.version,
        "reader": {"max_tokens": 64},
        "sha256": {f: sha256_file(folder / f) for f in ("model.onnx", "tokenizer.json")},
    }
    write_json(folder / "config.json", about)
