"""Answers all users, part by part, in several processes; `export.score` is the command.

A row of the folder that is replaced is kept where the same recommender would be asked the same
again. Its digest tells, which covers the answer, too: a damaged row is answered anew.
"""

import hashlib
import json
import logging
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from seqrec.data import load_dataset
from seqrec.errors import DataError, ModelError, SeqRecError
from seqrec.files import atomic_directory
from seqrec.table_files import table_files
from seqrec.tables import reading, require, require_ids, scan_part

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from export.config import ScoreConfig
from export.recommender import Recommender

logger = logging.getLogger(__name__)

PART = "part-{:05d}.parquet"
METADATA = "seqrec.recommender"  # the key in each file, by which it is known as one of ours
SCHEMA: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "item_ids": pl.List(pl.String),
    "scores": pl.List(pl.Float32),
    "digest": pl.String(),
}


class Part(NamedTuple):
    """Users that go into one output file: rows of a source, from `start` on."""

    number: int
    source: Path  # a prepared data set, or a Parquet file
    start: int
    num_users: int


class Scored(NamedTuple):
    """What became of a part."""

    num_users: int
    num_unknown: int  # users without any item of the catalogue
    num_kept: int  # users whose row was there already


def list_parts(config: ScoreConfig) -> list[Part]:
    """Divide the users into parts; no history is read yet.

    Raises:
        DataError: there are no users, or the histories are not what they have to be.
    """
    if config.histories is None:
        sources = [(config.data_dir, load_dataset(config.data_dir).num_users)]
    else:
        table = config.histories
        files = [table] if table.is_file() else table_files(table, [".parquet"])
        sources = [(file, _count_rows(file, config)) for file in files]
    parts: list[Part] = []
    for source, num_rows in sources:
        for start in range(0, num_rows, config.users_per_part):
            count = min(config.users_per_part, num_rows - start)
            parts.append(Part(len(parts), source, start, count))
    if not parts:
        raise DataError(f"{config.histories} holds no rows. Export it again")
    return parts


def _count_rows(file: Path, config: ScoreConfig) -> int:
    """Count the rows of a file of histories by its footer; refuse columns of another kind."""
    with reading(str(file)):
        frame = scan_part(file)
        schema = frame.collect_schema()
        num_rows = int(frame.select(pl.len()).collect().item())
    user, history = config.user_column, config.history_column
    options = {user: "--user-column", history: "--history-column"}
    require(str(file), schema, options)
    if num_rows == 0:  # which may have no types either
        return 0
    require_ids(str(file), user, schema[user], options[user])
    dtype = schema[history]
    if not isinstance(dtype, (pl.List, pl.Array)):
        raise DataError(
            f"{file}: column {history!r} is {dtype}, expected a list of item ids a user, oldest "
            "first. A log with one event a row becomes a data set by python -m seqrec.prepare, and "
            "is then scored with --data-dir"
        )
    if dtype.inner != pl.Null:  # all lists are empty
        require_ids(str(file), history, dtype.inner, options[history])  # type: ignore[arg-type]
    return num_rows


class Worker:
    """Answers parts, one after the other; a process has one."""

    def __init__(self, config: ScoreConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.recommender = Recommender.from_pretrained(config.model_dir)
        self.dataset = load_dataset(config.data_dir) if config.histories is None else None
        # What each file says of the model that made it.
        names = ("arch", "precision", "dataset_fingerprint", "sha256")
        made_by = {name: self.recommender.config.get(name) for name in names}
        self.metadata = {METADATA: json.dumps(made_by)}
        how = json.dumps([made_by["sha256"], config.k, config.exclude_seen], sort_keys=True)
        self.how = hashlib.blake2b(how.encode(), digest_size=8)

    def read(self, part: Part) -> tuple[list[str], list[list[str]]]:
        """Return the users of a part and their histories."""
        if (dataset := self.dataset) is not None:
            users = scan_part(dataset.path / "user_ids.parquet").select("user_id")
            offsets = dataset.offsets[part.start : part.start + part.num_users + 1]
            events = np.asarray(dataset.events[offsets[0] : offsets[-1]])
            taken = dataset.items["item_id"].gather(events - 1).to_list()
            return (
                users.slice(part.start, part.num_users).collect()["user_id"].to_list(),
                [taken[first:last] for first, last in pairwise((offsets - offsets[0]).tolist())],
            )
        user, history = self.config.user_column, self.config.history_column
        lists = pl.col(history).cast(pl.List(pl.String)).list.drop_nulls().fill_null([])
        rows = scan_part(part.source).slice(part.start, part.num_users)
        frame = rows.select(user=pl.col(user).cast(pl.String), history=lists).collect()
        if (without := frame["user"].is_null()).any():
            row = part.start + int(without.arg_true()[0]) + 1
            raise DataError(f"{part.source}, row {row}: column {user!r} is empty. Fill it in")
        return frame["user"].to_list(), frame["history"].to_list()

    def digest(self, history: list[str], item_ids: list[str], scores: list[float]) -> str:
        """Return 16 digits that stand for who was asked, how, about what, and for the answer."""
        digest = self.how.copy()
        digest.update(repr((history, item_ids)).encode())
        digest.update(np.array(scores, np.float32).tobytes())
        return digest.hexdigest()

    def earlier(self, part: Part) -> pl.DataFrame:
        """Return the same part of the folder that is replaced; no row if there is none to use."""
        file = self.config.output_dir / PART.format(part.number)
        try:
            return scan_part(file).select(list(SCHEMA)).cast(SCHEMA).collect()  # type: ignore
        except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
            return pl.DataFrame(schema=SCHEMA)  # damaged, or of an earlier version

    def kept(
        self, earlier: pl.DataFrame, users: list[str], histories: list[list[str]]
    ) -> NDArray[np.int64]:
        """Return which row of `earlier` is what a user would be answered now, -1: none; (N,)."""
        known = {user: (row, *rest) for row, (user, *rest) in enumerate(earlier.iter_rows())}
        kept = np.full(len(users), -1)
        for number, (user, history) in enumerate(zip(users, histories, strict=True)):
            row, item_ids, scores, digest = known.get(user, (-1, [], [], ""))
            if digest == self.digest(history, item_ids, scores):
                kept[number] = row
        return kept

    def answer(self, users: list[str], histories: list[list[str]]) -> pl.DataFrame:
        """Ask the recommender; the lists of whoever has no item of the catalogue are empty."""
        numbers = self.recommender.numbers
        lengths = [sum(item in numbers for item in history) for history in histories]
        item_ids: list[list[str]] = [[] for _ in users]
        scores: list[list[float]] = [[] for _ in users]
        # Histories of like length together: little padding.
        answered = [row for row, length in enumerate(lengths) if length]
        order = sorted(answered, key=lengths.__getitem__)
        for start in range(0, len(order), self.config.batch_size):
            rows = order[start : start + self.config.batch_size]
            answers = self.recommender.recommend_batch(
                [histories[row] for row in rows], self.config.k, self.config.exclude_seen
            )
            for row, answer in zip(rows, answers, strict=True):
                item_ids[row], scores[row] = answer.item_ids, answer.scores
        digests = list(map(self.digest, histories, item_ids, scores))
        columns = [users, item_ids, scores, digests]
        return pl.DataFrame(dict(zip(SCHEMA, columns, strict=True)), schema=SCHEMA)

    def __call__(self, part: Part) -> Scored:
        """Answer those of a part who have no such answer, and write its file, whole or not."""
        users, histories = self.read(part)
        earlier = self.earlier(part)
        rows = self.kept(earlier, users, histories)
        new = np.flatnonzero(rows < 0)
        answers = self.answer([users[n] for n in new], [histories[n] for n in new])
        rows[new] = len(earlier) + np.arange(len(new))
        file = self.folder / PART.format(part.number)
        beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        pl.concat([earlier, answers])[rows].write_parquet(beside, metadata=self.metadata)
        beside.replace(file)
        num_unknown = sum(map(self.recommender.numbers.keys().isdisjoint, histories))
        return Scored(len(users), num_unknown, len(users) - len(new))


# --- Engines: each takes the parts and yields what became of them, in any order -----------------

_worker: Worker | None = None  # a pool's process keeps it between parts


def _start_worker(config: ScoreConfig, folder: Path) -> None:
    global _worker
    _worker = Worker(config, folder)


def _answer(part: Part) -> Scored:
    assert _worker is not None  # `_start_worker` was called in this process
    return _worker(part)


def local_engine(config: ScoreConfig, folder: Path, parts: list[Part]) -> Iterator[Scored]:
    """Answer the parts in processes of this machine; a single worker is this process itself.

    Raises:
        SeqRecError: a worker was killed.
    """
    num_workers = min(config.num_workers or os.cpu_count() or 1, len(parts))
    if num_workers == 1:
        yield from map(Worker(config, folder), parts)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy ONNX Runtime's locks
    with ProcessPoolExecutor(num_workers, context, _start_worker, (config, folder)) as pool:
        try:
            yield from pool.map(_answer, parts)
        except BrokenProcessPool as error:
            raise SeqRecError(
                f"one of {num_workers} workers was killed, as the system does when memory runs "
                "out. Try fewer --num-workers, or fewer --users-per-part"
            ) from error


def ray_engine(config: ScoreConfig, folder: Path, parts: list[Part]) -> Iterator[Scored]:
    """Answer the parts in actors of Ray Data, on this machine or where `RAY_ADDRESS` points.

    Raises:
        ModelError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ModelError(
            'Ray is not installed. Install it: pip install --editable ".[ray]", or take '
            "--engine local"
        ) from error
    import seqrec

    import export

    started_here = not ray.is_initialized()
    if started_here:
        # The cluster's machines need the libraries; these packages are sent along.
        ray.init(runtime_env={"py_modules": [seqrec, export]}, log_to_driver=False)
    try:
        cores = int(ray.cluster_resources().get("CPU", 1))
        most = min(config.num_workers or cores, len(parts))
        rows = [{"number": part.number} for part in parts]

        class Actor:
            def __init__(self) -> None:
                self.worker = Worker(config, folder)

            def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
                return self.worker(parts[row["number"]])._asdict()

        dealt = ray.data.from_items(rows, override_num_blocks=len(rows))
        answered = dealt.map(Actor, compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most))
        for row in answered.iter_rows():
            yield Scored(**row)
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, SeqRecError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise cause from error
        raise
    finally:
        if started_here:
            ray.shutdown()


def score(config: ScoreConfig) -> Path:
    """Write the recommendations of all users, whole or not at all, and return the directory.

    Raises:
        DataError: there are no histories, or the directory to write holds something else.
        ModelError: there is no exported student in `model_dir`, or Ray is asked for and not there.
        SeqRecError: a worker was killed.
    """
    Recommender.from_pretrained(config.model_dir)  # refused here rather than in a worker
    folder = config.output_dir.resolve()
    _check_replaceable(folder)
    parts = list_parts(config)
    num_users = sum(part.num_users for part in parts)
    num_unknown, num_kept = 0, 0
    engine = local_engine if config.engine == "local" else ray_engine
    with (
        atomic_directory(folder) as beside,
        tqdm(total=num_users, desc="recommending", unit="user", mininterval=1) as bar,
    ):
        for done in engine(config, beside, parts):
            num_unknown += done.num_unknown
            num_kept += done.num_kept
            bar.update(done.num_users)
        for unfinished in beside.glob(".part-*.tmp"):  # of a worker that was killed and replaced
            unfinished.unlink()
        written = sum(1 for _ in beside.glob("part-*.parquet"))
        if written != len(parts):
            raise SeqRecError(
                f"{written} of {len(parts)} parts are in {beside.parent}: workers on other "
                "machines need the same file system at the same path. Nothing was written"
            )
    logger.info("wrote %s: %s users in %d file(s)", config.output_dir, f"{num_users:,}", len(parts))
    if num_kept:
        logger.info("%s of them were answered there already: kept", f"{num_kept:,}")
    if num_unknown:
        logger.info(
            "%s of them have no item of the catalogue in their history: their lists are empty",
            f"{num_unknown:,}",
        )
    return config.output_dir


def _check_replaceable(folder: Path) -> None:
    """Raise a `DataError` unless `folder` is free or holds nothing but what this module wrote."""
    if not folder.exists():
        return
    for file in sorted(folder.iterdir()) if folder.is_dir() else [folder]:
        try:
            is_ours = METADATA in pl.read_parquet_metadata(file)
        except (OSError, pl.exceptions.PolarsError):
            is_ours = False
        if not is_ours:  # histories in parts may have the same names
            raise DataError(
                f"{folder} holds more than recommendations (see {file.name}), so it is left as it "
                "is. Give another --output-dir"
            )
