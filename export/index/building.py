"""Gives a recommender an index; `export.to_index` is the command."""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import DataError, ModelError
from seqrec.files import atomic_directory, read_json, require_replaceable

import onnx
import polars as pl

from export.cards import fill
from export.config import ToIndexConfig
from export.index.graph import build_index, item_rows, save
from export.index.lists import list_size_for, make_lists
from export.index.measuring import choose_depths, draw_users, measure, score_all
from export.opening import (
    CARD,
    HOW,
    RECOMMENDER,
    TEXT_MAP,
    require_trained_on,
    whole_files,
)
from export.recommender import FloatArray

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
    whole_files(config.model_dir)
    exported = RECOMMENDER.open(config.model_dir, HOW).description
    dataset = load_dataset(config.data_dir)
    _require_fit(exported, dataset, config)
    choosing, judging = draw_users(dataset, exported["max_len"])
    model = onnx.load(config.model_dir / "model.onnx")
    logger.info("scoring all items for %s users", f"{len(choosing) + len(judging):,}")
    scored = score_all(model, [*choosing, *judging], exported["num_items"])
    chosen_by, judged_by = scored.parts(len(choosing))
    rows = item_rows(model)
    logger.info("sorting %s items into lists", f"{len(rows):,}")
    # Those that the lists are made by find more in them than others do.
    half = len(choosing) // 2
    list_size = config.list_size or list_size_for(len(rows))
    lists = make_lists(rows, chosen_by.states[: half or 1], list_size)
    depths = choose_depths(lists, chosen_by.parts(half)[1], (1 + config.min_recall) / 2)
    about: dict[str, Any] = {
        "num_lists": len(lists.keys),
        "list_size": list_size,
        "width": rows.shape[1],
        "lists_looked_at": {str(depth.most_answers): depth.num_lists for depth in depths},
    }
    with atomic_directory(folder) as beside:
        names = save(build_index(model, lists, depths), beside)
        del model, lists  # a large file is mapped from here on
        about |= measure(beside / "model.onnx", judging, judged_by)
        _require_recall(about, config)
        _describe(beside, config.model_dir, exported, about, names)
    logger.info("wrote %s", folder)
    if config.vectors_to is not None:
        item_ids = read_json(config.model_dir / "items.json")["ids"]
        write_vectors(config.vectors_to, item_ids, rows)
    return folder


def _is_index(folder: Path) -> bool:
    try:
        return "index" in read_json(folder / "config.json")
    except (OSError, ValueError):
        return False


def _require_fit(about: dict[str, Any], dataset: SequenceDataset, config: ToIndexConfig) -> None:
    """Refuse a recommender that is not in int8, has an index already, or is of other data."""
    if "index" in about or "model_file" in about or about.get("precision") != "int8":
        what = "an index" if "index" in about else about.get("model_file") or about["precision"]
        raise ModelError(
            f"{config.model_dir} holds {what}, and an index is made of an int8 export. Name one: "
            "--model-dir runs/NAME/export/transformer-distilled-int8"
        )
    require_trained_on(dataset, config.model_dir, about)


def _require_recall(about: dict[str, Any], config: ToIndexConfig) -> None:
    """Refuse an index that finds too little."""
    for k, recall in about["recall"].items():
        if recall < config.min_recall:
            raise ModelError(
                f"the index finds {recall:.4f} of the top {k} of {about['num_users']} validation "
                f"users, --min-recall is {config.min_recall:g}. Give a lower one, or serve "
                f"{config.model_dir} as it is"
            )


def _describe(
    beside: Path,
    source: Path,
    exported: dict[str, Any],
    about: dict[str, Any],
    names: Sequence[str],
) -> None:
    """Write all but the model; `about` is what config.json and model card say of the index."""
    for name in ("items.json", TEXT_MAP):
        if (source / name).is_file():
            shutil.copy(source / name, beside / name)
    kept = {name: value for name, value in exported.items() if name != "sha256"}
    RECOMMENDER.write(beside, {**kept, "index": about}, (*names, "items.json"))
    size = sum((beside / name).stat().st_size for name in names) / 2**20
    values = {**about, "size_mib": f"{size:.2f}", "num_lists": f"{about['num_lists']:,}"}
    for k in about["recall"]:
        values |= {f"lists_{k}": about["lists_looked_at"][k]}
        values |= {f"recall_{k}": f"{about['recall'][k]:.2%}"}
    gains = about["ndcg@10"]
    values |= {"ndcg_index": f"{gains['index']:.4f}", "ndcg_exact": f"{gains['exact']:.4f}"}
    card = source / CARD
    text = card.read_text(encoding="utf-8") + "\n" if card.is_file() else ""
    (beside / CARD).write_text(text + fill("index", values), encoding="utf-8")
    logger.info(
        "%.2f MiB: looks at %s of %s lists for 10 answers and finds %s of the exact ones",
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
