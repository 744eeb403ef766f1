"""An invented log of any size: `python -m benchmarks.synthetic_log --num-events 100000000`.

Writes into the output directory what `seqrec.prepare` reads:

    interactions/    Parquet parts, in the order of time
    items.parquet    `item_id`, `title`, `category`

Items are taken by a Zipf law, users act as often as a log-normal law says, and all at the rate of
real logs' tails: most items and users are rare. Who takes what is chance, so the log is good for
time and memory, not for accuracy. The same flags give the same rows, in memory that grows with
users and items alone.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqrec.config import flag, parse_flags
from seqrec.errors import DataError, run_main
from seqrec.files import atomic_directory

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

logger = logging.getLogger(__name__)

SCRAMBLER = np.uint64(0x9E3779B97F4A7C15)  # odd: different numbers stay different
START = 1_600_000_000  # seconds; the log goes on for two years
DURATION = 63_072_000
ADJECTIVES = ("Blue", "Green", "Old", "New", "Small", "Great", "Quiet", "Bright", "Cold", "Warm")
NOUNS = ("Lamp", "River", "Table", "Garden", "Engine", "Letter", "House", "Song", "Coat", "Clock")
CATEGORIES = ("Books", "Music", "Home", "Tools", "Toys", "Clothing", "Food", "Sports")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Flags of `benchmarks.synthetic_log`."""

    output_dir: Path = flag(Path("runs/log"), "directory to write")
    num_events: int = flag(1_000_000, "interactions")
    num_users: int = flag(50_000, "users that events are drawn for; the rarest may get none")
    num_items: int = flag(10_000, "items of the catalogue")
    zipf: float = flag(1.0, "exponent of the items' popularity by rank")
    sigma: float = flag(1.2, "deviation of the logarithm of users' activity")
    whole_number_ids: bool = flag(False, "users are whole numbers instead of text")
    rows_per_part: int = flag(2_000_000, "rows of a Parquet part")
    seed: int = flag(0, "seed of all randomness")

    def __post_init__(self) -> None:
        """Refuse sizes that make no log."""
        sizes = (self.num_events, self.num_users, self.num_items, self.rows_per_part)
        if min(sizes) < 1:
            raise ValueError("--num-events, --num-users, --num-items, --rows-per-part start at 1")


def make_log(config: LogConfig) -> None:
    """Write a log and its catalogue.

    Raises:
        DataError: the output directory holds something already.
    """
    if config.output_dir.exists() and any(config.output_dir.iterdir()):
        raise DataError(f"{config.output_dir} is not empty. Remove it, or give --output-dir")
    # Who acts when is the same whatever the catalogue's size: sizes can be compared.
    of_users, of_items, rng = np.random.default_rng(config.seed).spawn(3)
    by_rank = (np.arange(config.num_items) + 2.7) ** -config.zipf  # Zipf-Mandelbrot
    items = np.cumsum(of_items.permutation(by_rank))
    users = np.cumsum(of_users.lognormal(sigma=config.sigma, size=config.num_users))
    num_parts = -(-config.num_events // config.rows_per_part)
    bounds = np.linspace(0, config.num_events, num_parts + 1).astype(np.int64)
    with atomic_directory(config.output_dir) as folder:
        _catalogue(config.num_items, of_items).write_parquet(folder / "items.parquet")
        parts = folder / "interactions"
        parts.mkdir()
        for number in tqdm(range(num_parts), desc="log", unit="part"):
            first, last = START + DURATION * bounds[number : number + 2] // config.num_events
            count = int(bounds[number + 1] - bounds[number])
            user_numbers = _draw(users, count, of_users)
            part = pl.DataFrame(
                {
                    "user_id": user_numbers if config.whole_number_ids else _long_ids(user_numbers),
                    "item_id": _ids(_draw(items, count, of_items)),
                    "timestamp": np.sort(rng.integers(first, last + 1, count)),
                }
            )
            part.write_parquet(parts / f"part-{number:05d}.parquet", compression="snappy")
    logger.info("wrote %s events into %s", f"{config.num_events:,}", config.output_dir)


def _draw(
    cumulative: NDArray[np.float64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw numbers from 0 on with the given cumulative weights."""
    return np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")


def _ids(numbers: NDArray[np.int64]) -> pl.Series:
    """Return ids of ten characters, such as "B000000042"."""
    text = pl.Series(numbers).cast(pl.String).str.zfill(9)
    return pl.Series(["B"]).new_from_index(0, len(text)) + text


def _long_ids(numbers: NDArray[np.int64]) -> pl.Series:
    """Return ids of about twenty characters that share no beginning."""
    return pl.Series(numbers.astype(np.uint64) * SCRAMBLER).cast(pl.String)


def _catalogue(num_items: int, rng: np.random.Generator) -> pl.DataFrame:
    numbers = np.arange(num_items)
    adjectives, nouns, categories = (
        pl.Series(words).gather(rng.integers(0, len(words), num_items))
        for words in (ADJECTIVES, NOUNS, CATEGORIES)
    )
    titles = adjectives + " " + nouns + " " + pl.Series(numbers).cast(pl.String)
    return pl.DataFrame({"item_id": _ids(numbers), "title": titles, "category": categories})


def main(argv: Sequence[str] | None = None) -> None:
    """Write a log as the command line asks."""
    make_log(parse_flags(LogConfig, (__doc__ or "").partition("\n")[0], argv))


if __name__ == "__main__":
    run_main(main)
