"""Whether a student answers on ARM as it does here, a part of `make torture`.

    python -m tests.reliability.check_arm --model-dir runs/ml-100k/export/gru-distilled-int8

ONNX Runtime multiplies 8-bit matrices by other code on ARM than on x86. So the very directory that
is shipped is opened by the very client that is shipped, under emulation of ARM processors, and its
answers are compared with those it gives here. An emulator says what would be answered, not how
fast: nothing is timed.

For Debian and what derives from it. What is needed comes from the machine's package sources and
from PyPI, into the cache directory, once: qemu's user-mode emulator, Debian's Python for arm64, and
the wheels for aarch64 of the very numpy and onnxruntime that are installed here. The system's
packages and settings stay as they are.

Two processors are emulated, since ONNX Runtime has code for each: one without and one with the
dot-product instructions of ARMv8.2.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from seqrec.config import flag, parse_flags
from seqrec.errors import ModelError, SourceError, run_main
from seqrec.fetch import cache_dir
from seqrec.files import atomic_directory

import numpy as np
from tabulate import tabulate

from export.parity import overlap
from export.recommender import Recommender

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
EMULATOR = "qemu-user-static"
# Debian's Python, and all that it and the wheels are linked against.
PACKAGES = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libgcc-s1"),
    *("libstdc++6", "libexpat1", "zlib1g", "libssl3", "libffi8", "libbz2-1.0", "liblzma5"),
)
WHEELS = ("numpy", "onnxruntime")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
# What the kernel of such a machine says of it, which ONNX Runtime asks, and qemu leaves to be the
# real machine's: part number (of Arm Ltd.) and features.
BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
PROCESSORS = {
    "cortex-a72": ("ARMv8.0", "0xd08", BASE),
    "neoverse-n1": ("ARMv8.2, dot product", "0xd0c", f"{BASE} atomics fphp asimdhp asimddp"),
}
CPU_INFO = """processor\t: {number}
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 0

"""
LEAST_OVERLAP = 0.98  # of the top 10

ANSWER = """
import json, sys
from export.recommender import Recommender
recommender = Recommender.from_pretrained(sys.argv[1])
histories = json.load(sys.stdin)
answers = [recommender.recommend(history) for history in histories]
json.dump([[[a.item_id, a.score] for a in answer] for answer in answers], sys.stdout)
"""
Answers = Sequence[Sequence[tuple[str, float]]]  # of each history: items and scores, best first


@dataclass(frozen=True, kw_only=True)
class CheckArmConfig:
    """Flags of `tests.reliability.check_arm`."""

    model_dir: Path = flag(
        Path("runs/ml-100k/export/transformer-distilled-int8"),
        "exported student, from export.to_onnx",
    )
    num_histories: int = flag(200, "random histories to compare, of 1 to max_len items")
    seed: int = flag(0, "seed of the histories")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.num_histories < 1:
            raise ValueError("--num-histories: above 0")


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, and write a table to stdout."""
    config = parse_flags(CheckArmConfig, (__doc__ or "").partition("\n")[0], argv)
    headers = ["emulated processor", "histories", "same top 10", "overlap", "scores differ by"]
    formats = ("", ",", ".1%", ".2%", ".2g")
    rows = check_arm(config)
    sys.stdout.write(tabulate(rows, headers=headers, intfmt=formats, floatfmt=formats) + "\n")


def check_arm(config: CheckArmConfig) -> list[tuple[str, int, float, float, float]]:
    """Compare answers here with those on each emulated processor.

    Returns:
        For each processor: its name, how many histories were compared, and what `compare` says.

    Raises:
        ModelError: there is no recommender, it does not answer on ARM, or less than .98 of the top
            10 are the same there.
        SourceError: what emulates ARM cannot be had.
    """
    recommender = Recommender.from_pretrained(config.model_dir)
    rng = np.random.default_rng(config.seed)
    lengths = rng.integers(1, recommender.max_len + 1, config.num_histories)
    histories = [rng.choice(recommender.item_ids, length).tolist() for length in lengths]
    here = [[(a.item_id, a.score) for a in recommender.recommend(h)] for h in histories]
    machine, rows = fetch_machine(), []
    for processor, (architecture, *_) in PROCESSORS.items():
        there = answers_on(machine, processor, config.model_dir, histories)
        same, overlapping, difference = compare(here, there)
        name = f"{processor} ({architecture})"
        rows.append((name, len(histories), same, overlapping, difference))
        if overlapping < LEAST_OVERLAP:
            raise ModelError(
                f"on an emulated {processor} only {overlapping:.1%} of the top 10 are those that "
                f"are recommended here, {LEAST_OVERLAP:.0%} are expected"
            )
    return rows


def compare(here: Answers, there: Answers) -> tuple[float, float, float]:
    """Compare lists of items and scores, history by history.

    Returns:
        The share of histories whose lists are the same in the same order, the mean share of items
        that both have, and the largest difference between scores of the same item.

    >>> compare([[("a", 2.0), ("b", 1.0)]], [[("a", 1.5), ("c", 1.0)]])
    (0.0, 0.5, 0.5)
    >>> compare([[]], [[]])
    (1.0, 1.0, 0.0)
    """
    same, overlaps, differences = [], [], [0.0]
    for first, second in zip(here, there, strict=True):
        scores = dict(second)
        listed = [item for item, _ in first]
        same.append(listed == list(scores))
        overlaps.append(overlap(listed, list(scores)))
        differences += [abs(score - scores[item]) for item, score in first if item in scores]
    return float(np.mean(same)), float(np.mean(overlaps)), max(differences)


def answers_on(
    machine: Path, processor: str, model_dir: Path, histories: Sequence[Sequence[str]]
) -> Answers:
    """Ask the recommender in a directory, on an emulated processor.

    Raises:
        ModelError: it does not answer there.
    """
    path = os.pathsep.join([str(machine / "site"), str(ROOT)])
    done = subprocess.run(
        [*python_on(machine, processor), "-c", ANSWER, str(model_dir.resolve())],
        env={**os.environ, "PYTHONPATH": path},
        input=json.dumps(histories),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ModelError(
            f"{model_dir} does not answer on an emulated {processor} (exit code "
            f"{done.returncode}: {_last_line(done.stderr)})"
        )
    return [[(item, score) for item, score in answer] for answer in json.loads(done.stdout)]


def python_on(machine: Path, processor: str) -> list[str]:
    """Return the command that starts Python on an emulated processor."""
    emulator = machine / "emulator" / "usr" / "bin" / "qemu-aarch64-static"
    system = machine / processor
    python = system / "usr" / "bin" / "python3.11"
    # -S: Debian's folder of packages does not exist in this system.
    return [str(emulator), "-cpu", processor, "-L", str(system), str(python), "-S"]


def fetch_machine() -> Path:
    """Return the folder with the emulator, a Python for ARM and its libraries; made if missing.

    Raises:
        SourceError: apt-get, dpkg-deb or pip did not do what it was asked for.
    """
    wanted = [f"{name}=={version(name)}" for name in WHEELS]
    folder = cache_dir() / "arm" / "-".join(wanted).replace("==", "-")
    if folder.is_dir():
        return folder
    logger.info("fetching an emulator and a Python for ARM into %s", folder)
    with atomic_directory(folder) as beside:
        downloads = beside / "downloads"
        downloads.mkdir()
        _fetch_packages([EMULATOR], downloads, beside / "emulator")
        _fetch_packages(PACKAGES, downloads, beside / "system", architecture="arm64")
        platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        pip += ["--no-deps", "--only-binary=:all:", "--python-version", "3.11", *platforms]
        _do([*pip, "--dest", str(downloads), *wanted], downloads)
        for wheel in downloads.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(beside / "site")  # which leaves out paths that escape
        shutil.rmtree(downloads)
        for processor in PROCESSORS:
            describe(processor, beside)
    return folder


def describe(processor: str, machine: Path) -> None:
    """Make the system that a processor sees: the machine's, with the processor's /proc/cpuinfo."""
    seen = machine / processor
    (seen / "proc").mkdir(parents=True)
    for entry in sorted((machine / "system").iterdir()):
        (seen / entry.name).symlink_to(Path("..", "system", entry.name))
    _, part, features = PROCESSORS[processor]
    numbers = range(os.cpu_count() or 1)
    cpus = [CPU_INFO.format(number=number, features=features, part=part) for number in numbers]
    (seen / "proc" / "cpuinfo").write_text("".join(cpus), encoding="utf-8")


def _fetch_packages(
    names: Sequence[str], downloads: Path, target: Path, architecture: str | None = None
) -> None:
    """Download Debian packages, by apt with its state in a folder of its own, and unpack them."""
    state = downloads / target.name
    for part in ("lists/partial", "archives/partial"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()  # nothing is installed there
    options = [f"Dir::State={state}", f"Dir::State::status={state / 'status'}"]
    options += [f"Dir::Cache={state}", "Debug::NoLocking=1", "APT::Sandbox::User="]
    if architecture is not None:
        options += [f"APT::Architecture={architecture}", f"APT::Architectures={architecture}"]
    apt = ["apt-get", "-qq", *(part for option in options for part in ("-o", option))]
    _do([*apt, "update"], state)
    _do([*apt, "download", *names], state)
    for package in sorted(state.glob("*.deb")):
        _do(["dpkg-deb", "--extract", str(package), str(target)], state)


def _do(command: Sequence[str], folder: Path) -> None:
    """Run a command in a folder; `SourceError` if it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise SourceError(
            f"{command[0]} is not on this machine. ARM is emulated on Debian and what derives from "
            "it only"
        ) from error
    if done.returncode != 0:
        raise SourceError(
            f"{command[0]} failed (exit code {done.returncode}: {_last_line(done.stderr)}). "
            "Connect to the network and type the same command again"
        )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


if __name__ == "__main__":
    run_main(main)
