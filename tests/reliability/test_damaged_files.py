"""Every file that is read, damaged at random: a result, or one line of a `SeqRecError`.

Anything else fails: another exception, more than two gigabytes on top, more than 20 seconds, and,
where checksums cover the file, that nobody noticed. `make torture` tries more often.
"""

import contextlib
import io
import json
import logging
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seqrec.errors import SeqRecError

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reliability.samples import Format, write_samples

pytestmark = pytest.mark.slow

TRIES = int(os.environ.get("SEQREC_TRIES", "20"))  # of each format
MAX_SECONDS, MAX_MORE_BYTES = 20, 2 * 2**30
FORMATS = ("tables", "data", "knowledge", "teacher", "targets", "student", "recommender")
TEXT = st.text(max_size=20) | st.sampled_from(
    ["\ufeff", "\u202egnp.exe", ",,\n", "NaN", "-0", "1e400", "9" * 40, "x" * 100_000]
)
VALUES = st.sampled_from(
    [None, True, -1, 0, 2**63, 1e308, float("nan"), "", "\ud800", [], {}, [[]], "9"]
)
CLAIMS = ("(999999999999,)", "(-1,)", "(3, 3)", "(10**9,)", "()")
Draw = Callable[[st.SearchStrategy[Any]], Any]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Format]:
    return {form.name: form for form in write_samples(tmp_path_factory.mktemp("samples"))}


def cut(content: bytes, draw: Draw) -> bytes:
    return content[: draw(st.integers(0, len(content)))]


def flip_bits(content: bytes, draw: Draw) -> bytes:
    changed = bytearray(content)
    for position in draw(st.lists(st.integers(0, max(len(content) - 1, 0)), max_size=8)):
        if content:
            changed[position] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def zero_or_double(content: bytes, draw: Draw) -> bytes:
    first, last = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    middle = draw(st.sampled_from([bytes(last - first), 2 * content[first:last]]))
    return bytes(content[:first] + middle + content[last:])


def insert_text(content: bytes, draw: Draw) -> bytes:
    position = draw(st.integers(0, len(content)))
    return content[:position] + draw(TEXT).encode(errors="replace") + content[position:]


def replace_value(content: bytes, draw: Draw) -> bytes:
    """Replace a value of JSON by one of another type, or by a huge number."""
    document = json.loads(content)
    node = document
    while isinstance(node, dict | list) and node:
        key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
            node = node[key]
            continue
        node[key] = draw(VALUES)
        break
    return json.dumps(document).encode()


def claim(content: bytes, draw: Draw) -> bytes:
    """Let an array's header claim another shape or type, of the same length in characters."""
    size = int.from_bytes(content[8:10], "little")
    header = content[10 : 10 + size].decode("latin1")
    start, end = header.find("("), header.find(")") + 1
    shape = draw(st.sampled_from([*CLAIMS, header[start:end]]))
    header = header[:start] + shape + header[end:]
    if draw(st.booleans()):
        header = header.replace("<i4", "|O8").replace("<i8", "|O8").replace("<f2", "|O8")
    return content[:10] + header.encode("latin1")[:size].ljust(size) + content[10 + size :]


def damage(file: Path, draw: Draw) -> None:
    """Damage a file in place, or remove it."""
    ways = [cut, flip_bits, zero_or_double, insert_text]
    ways += {".json": 4 * [replace_value], ".npy": 2 * [claim]}.get(file.suffix, [])
    if draw(st.integers(0, 19)) == 0:
        file.unlink()
    else:
        file.write_bytes(draw(st.sampled_from(ways))(file.read_bytes(), draw))


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Allow the block so much time and memory; `TimeoutError`, `MemoryError` beyond."""

    def over(*_: object) -> None:
        raise TimeoutError(f"more than {MAX_SECONDS} s")

    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, over)
    signal.alarm(MAX_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MAX_MORE_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def read_damaged(form: Format, work: Path, draw: Draw) -> None:
    """Damage one file of a copy and read it: it is refused, or nothing was to be noticed."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(form.folder, work)
    files = sorted(path for path in work.rglob("*") if path.is_file())
    file = draw(st.sampled_from(files))
    before = file.read_bytes()
    damage(file, draw)
    changed = not file.is_file() or file.read_bytes() != before
    try:
        with bounded():
            form.read(work)
    except SeqRecError:
        return
    assert not (changed and file.name in form.checksummed), "nobody noticed"


@pytest.mark.parametrize("name", [*FORMATS, "text encoder"])
def test_damage_is_refused_or_does_no_harm(
    samples: dict[str, Format], name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)

    @settings(
        max_examples=TRIES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        read_damaged(samples[name], tmp_path / "work", data.draw)

    attempt()


def test_a_reader_that_ignores_all_checks_is_caught(
    samples: dict[str, Format], tmp_path: Path
) -> None:
    form = samples["data"]
    careless = Format("careless", form.folder, lambda folder: None, form.checksummed)

    @settings(max_examples=50, deadline=None, database=None, derandomize=True)
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        read_damaged(careless, tmp_path / "work", data.draw)

    with pytest.raises(AssertionError, match="nobody noticed"):
        attempt()


def test_an_array_that_claims_too_much_is_still_an_array_file(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.arange(3))
    drawn = iter(["(10**9,)", True])  # a shape, and that the type changes, too
    claimed = claim(file.getvalue(), lambda _: next(drawn))
    assert b"(10**9,)" in claimed
    assert b"|O8" in claimed
    assert claimed[:6] == b"\x93NUMPY"
    assert len(claimed) == len(file.getvalue())
