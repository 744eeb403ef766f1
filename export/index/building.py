"""Gives a recommender an index; `export.to_index` is the command."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import DataError, ModelError
from seqrec.files import atomic_directory, read_json, require_replaceable

import onnx
import polars as pl
from onnx import ModelProto

from export.cards import fill
from export.config import ToIndexConfig
from export.index.graph import build_index, item_rows
from export.index.lists import make_lists
from export.index.measuring import choose_depths, draw_users, measure, score_all
from export.recommender import RECOMMENDER, FloatArray, Recommender

logger = logging.getLogger(__name__)


def to_index(config: ToIndexConfig) -> Path:
    """Write the directory, whole or not at all, and return it.

    Raises:
        ModelError: there is no int8 recommender in `model_dir`, it was made from other data, or the
            index finds less than `min_recall` of what scoring all items finds.
        DataError: the data set has too few validation users, or something is in the way of what is
            to be written.
    """
    folder = config.output_dir or config.model_dir.parent.parent / "index" / config.model_dir.name
    require_replaceable(folder, "index", ours=_is_index(folder))
    if config.vectors_to is not None and config.vectors_to.exists():
        raise DataError(f"{config.vectors_to} exists. Give another --vectors-to, or move it away")
    exact = Recommender.from_pretrained(config.model_dir)
    dataset = load_dataset(config.data_dir)
    _require_fit(exact, dataset, config)
    choosing, judging = draw_users(dataset, exact.max_len)
    model = onnx.load(config.model_dir / "model.onnx")
    rows = item_rows(model)
    logger.info("scoring all items for %s users", f"{len(choosing) + len(judging):,}")
    chosen_by, judged_by = (score_all(model, asked, len(rows)) for asked in (choosing, judging))
    logger.info("sorting %s items into lists", f"{len(rows):,}")
    lists = make_lists(rows, chosen_by.states, config.list_size)
    depths = choose_depths(lists, chosen_by, (1 + config.min_recall) / 2)
    built = build_index(model, lists, depths)
    found = measure(built, judging, judged_by)
    for k, recall in found["recall"].items():
        if recall < config.min_recall:
            raise ModelError(
                f"the index finds {recall:.4f} of the top {k} of {found['num_users']} validation "
                f"users, --min-recall is {config.min_recall:g}. Give a lower one, or serve "
                f"{config.model_dir} as it is"
            )
    about = {
        "num_lists": len(lists.keys),
        "list_size": config.list_size,
        "width": rows.shape[1],
        "lists_looked_at": {str(depth.most_answers): depth.num_lists for depth in depths},
        **found,
    }
    _write(folder, config.model_dir, exact, built, about)
    if config.vectors_to is not None:
        write_vectors(config.vectors_to, exact.item_ids, rows)
    return folder


def _is_index(folder: Path) -> bool:
    try:
        return "index" in read_json(folder / "config.json")
    except (OSError, ValueError):
        return False


def _require_fit(exact: Recommender, dataset: SequenceDataset, config: ToIndexConfig) -> None:
    """Refuse a recommender that is not in int8, has an index already, or is of other data."""
    about = exact.config
    if "index" in about or "model_file" in about or about.get("precision") != "int8":
        what = "an index" if "index" in about else about.get("model_file") or about["precision"]
        raise ModelError(
            f"{config.model_dir} holds {what}, and an index is made of an int8 export. Name one: "
            "--model-dir runs/NAME/export/transformer-distilled-int8"
        )
    if about.get("dataset_fingerprint") != dataset.fingerprint:
        raise ModelError(
            f"{config.model_dir} was trained on data set {about.get('dataset_fingerprint')}, but "
            f"{dataset.path} is {dataset.fingerprint}. Give the other one: --data-dir data/NAME"
        )


def _write(
    folder: Path, source: Path, exact: Recommender, built: ModelProto, about: dict[str, Any]
) -> None:
    """Write the directory; `about` is what config.json and model card say of the index."""
    left_behind = {"sha256", "text_map"}  # a text map makes rows for another table
    kept = {name: value for name, value in exact.config.items() if name not in left_behind}
    with atomic_directory(folder) as beside:
        onnx.save(built, beside / "model.onnx")
        shutil.copy(source / "items.json", beside / "items.json")
        RECOMMENDER.write(beside, {**kept, "index": about}, ("model.onnx", "items.json"))
        size = (beside / "model.onnx").stat().st_size / 2**20
        values = {**about, "size_mib": f"{size:.2f}", "num_lists": f"{about['num_lists']:,}"}
        for k in about["recall"]:
            values |= {f"lists_{k}": about["lists_looked_at"][k]}
            values |= {f"recall_{k}": f"{about['recall'][k]:.2%}"}
        gains = about["ndcg@10"]
        values |= {"ndcg_index": f"{gains['index']:.4f}", "ndcg_exact": f"{gains['exact']:.4f}"}
        card = source / "README.md"
        text = card.read_text(encoding="utf-8") + "\n" if card.is_file() else ""
        (beside / "README.md").write_text(text + fill("index", values), encoding="utf-8")
    logger.info(
        "wrote %s, %.2f MiB: looks at %s of %s lists for 10 answers and finds %s of the exact ones",
        folder,
        size,
        values["lists_10"],
        values["num_lists"],
        values["recall_10"],
    )


def write_vectors(file: Path, item_ids: list[str], rows: FloatArray) -> None:
    """Write `item_id` and `vector`, H numbers of 32 bit, as Parquet, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    vectors = pl.Series(rows, dtype=pl.Array(pl.Float32, rows.shape[1]))
    try:
        pl.DataFrame({"item_id": item_ids, "vector": vectors}).write_parquet(beside)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
    logger.info("wrote %s: %s vectors of %s", file, f"{len(rows):,}", rows.shape[1])
