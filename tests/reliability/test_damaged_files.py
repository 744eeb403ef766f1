"""Damaged files give a result or one line; `tests.reliability.damage` tries many more of them."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.reliability.damage import Format, attempt, damage, write_samples

TRIES = 24


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Format]:
    return {form.name: form for form in write_samples(tmp_path_factory.mktemp("samples"))}


@pytest.mark.parametrize("name", ["tables", "data", "knowledge", "student", "recommender"])
def test_damage_is_refused_in_one_line_or_does_no_harm(
    samples: dict[str, Format], name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="seqrec")
    tries = [attempt(samples[name], tmp_path / "work", (7, number)) for number in range(TRIES)]
    assert [found for found in tries if found["outcome"] == "finding"] == []
    for found in tries:
        assert "\n" not in found["said"]
    if samples[name].checksummed:
        assert Counter(found["outcome"] for found in tries)["refused"] > 0


def test_what_goes_wrong_is_found(samples: dict[str, Format], tmp_path: Path) -> None:
    """A reader that ignores all checks is caught in every way there is to fail."""

    def careless(folder: Path) -> None:
        if not (folder / "events.npy").is_file():
            raise FileNotFoundError("events.npy")

    data = samples["data"]
    form = Format("careless", data.folder, careless, data.checksummed)
    tries = [attempt(form, tmp_path / "work", (7, number)) for number in range(TRIES)]
    said = {found["said"] for found in tries if found["outcome"] == "finding"}
    assert "nobody noticed" in said


def test_the_same_seed_does_the_same_damage(tmp_path: Path) -> None:
    for name in ("one.json", "other.json"):
        (tmp_path / name).write_text('{"a": [1, 2, {"b": "text"}], "c": 0.5}')
        damage(tmp_path / name, np.random.default_rng(3))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()
