"""Several prepared data sets as one: what one teacher learns of many catalogues.

    accelerate launch teacher/finetune.py --data-dir data/books data/films

unites them in `data/books+films`, a data set like any other. Users and items stand in the order of
the sets. An id belongs to its set, `books/17`: what has the same id in another set is somebody or
something else. Each training window counts alike, so a set takes part in proportion to its windows.
Targets are ranked within their own catalogue, and validation is the mean over the catalogues, so
that a small one has its say.

A text is what it is in the set alone: the columns after the title, which may be others in each, are
joined in one, as the language model reads them.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from seqrec.data import SequenceDataset, load_dataset, write_dataset
from seqrec.errors import DataError
from seqrec.texts import item_texts

import numpy as np
import polars as pl

logger = logging.getLogger(__name__)


def united_path(data_dirs: Sequence[Path]) -> Path:
    """Return where several data sets are united, beside the first; of one, where it is."""
    if len(data_dirs) == 1:
        return data_dirs[0]
    return data_dirs[0].parent / "+".join(path.resolve().name for path in data_dirs)


def open_united(data_dirs: Sequence[Path]) -> SequenceDataset:
    """Open a data set, or unite several; those that are united already stay as they are.

    Raises:
        DataError: one cannot be opened, two have one name or are split differently, or something
            else is where the united set would be.
    """
    datasets = [load_dataset(path) for path in data_dirs]
    if len(datasets) == 1:
        return datasets[0]
    path = united_path(data_dirs)
    names = [one.path.resolve().name for one in datasets]
    for other in range(1, len(names)):
        if names[other] in names[:other]:
            raise DataError(
                f"--data-dir has two data sets of the name {names[other]}, of which items could "
                "not be told apart. Rename a folder, or name it once"
            )
    splits = {str(one.meta["split"]): one.path for one in datasets}
    if len(splits) > 1:
        told = ", ".join(f"{folder} is {split}" for split, folder in splits.items())
        raise DataError(f"data sets to unite have to be split alike: {told}. Prepare one again")
    made_of = {name: one.fingerprint for name, one in zip(names, datasets, strict=True)}
    if path.exists():
        found = load_dataset(path)
        before = found.meta["provenance"].get("united")
        if before == made_of:
            return found
        if before is None:
            raise DataError(f"{path} is a data set of its own, and would be overwritten. Rename it")
    united = _unite(path, names, datasets, made_of)
    logger.info("united %s in %s: %s items", ", ".join(names), path, f"{united.num_items:,}")
    return united


def _unite(
    path: Path, names: Sequence[str], datasets: Sequence[SequenceDataset], made_of: dict[str, str]
) -> SequenceDataset:
    """Write the data set of all users and items."""
    sizes = [one.num_items for one in datasets]
    before = np.cumsum([0, *sizes[:-1]])
    events = np.concatenate([one.events + b for one, b in zip(datasets, before, strict=True)])
    lengths = np.concatenate([np.diff(one.offsets) for one in datasets])
    return write_dataset(
        path,
        name=path.name,
        items=pl.concat([_items(n, one) for n, one in zip(names, datasets, strict=True)]),
        user_ids=pl.concat([_user_ids(n, one) for n, one in zip(names, datasets, strict=True)]),
        events=events.astype(np.int32),
        offsets=np.cumsum([0, *lengths]),
        split=np.concatenate([one.split for one in datasets]),
        split_name=datasets[0].meta["split"],
        provenance={"united": made_of},
        cold_items=np.concatenate(
            [one.cold_items + b for one, b in zip(datasets, before, strict=True)]
        ),
        catalogues=dict(zip(names, sizes, strict=True)),
    )


def _items(name: str, dataset: SequenceDataset) -> pl.DataFrame:
    """Return ids, titles and the rest of the texts of a set's items."""
    others = dataset.items.drop("title").with_columns(title=pl.lit(""))
    return pl.DataFrame(
        {
            "item_id": [f"{name}/{item_id}" for item_id in dataset.item_ids],
            "title": dataset.items["title"],
            "text": item_texts(others),
        }
    )


def _user_ids(name: str, dataset: SequenceDataset) -> pl.Series:
    ids = pl.read_parquet(dataset.path / "user_ids.parquet", glob=False)["user_id"]
    return pl.Series("user_id", [f"{name}/{user_id}" for user_id in ids], dtype=pl.String)
