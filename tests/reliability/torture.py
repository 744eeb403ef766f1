"""Every stage, killed at random moments. Entry point: `python -m tests.reliability.torture`.

Runs the stages once undisturbed. Then each is started in another folder and killed (SIGKILL, the
whole process group) at seeded random moments of the time that it took, twice in a row, before the
same command runs to its end. What it leaves then is compared with what the undisturbed run left,
byte by byte: arrays, weights, graphs, tables and lists of ids. Nothing unfinished may lie beside
it, and where a training's checkpoint was there after the last kill, one has to go on from it. Its
outputs are removed and it begins anew, until all kills are spent.

Computed on one thread of the CPU, where the same sums are made in the same order. The log is
invented, the language model a real one, cut to its first layer. Exit code 1 if anything differs.

Writes `torture.json` into the output directory: a list of rows, one per command that ran to its
end, with stage, kills (seconds after its start), checkpoints (trainings that had one after the last
kill), resumed (trainings that went on from one), different and unfinished (paths; both are to be
empty). `kept/torture.json` is of a long run.
"""

import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec.config import flag, parse_flags
from seqrec.errors import ModelError, run_main
from seqrec.files import write_json

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.measure.startup import last_line
from benchmarks.synthetic_log import LogConfig, make_log

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
KILLS_IN_A_ROW = 2
# What a stage computes. Other files hold times, paths and figures that follow from these; ONNX
# Runtime writes a model.ort in another order each time, and export.to_mobile compares its answers.
COMPARED = (".npy", ".safetensors", ".onnx", ".parquet")
UNFINISHED = (".tmp", ".old")


@dataclass(frozen=True, kw_only=True)
class TortureConfig:
    """Flags of `tests.reliability.torture`."""

    output_dir: Path = flag(Path("runs/torture"), "directory to work in; it is emptied first")
    num_kills: int = flag(30, "kills in all, shared by the stages")
    stages: tuple[str, ...] = flag((), "these stages alone: prepare, finetune, distill, ...")
    model: str = flag("minilm-l6", "language model of the teacher, see teacher/finetune.py")
    num_users: int = flag(150, "users of the invented log")
    seed: int = flag(0, "seed of the log and of the moments")


@dataclass(frozen=True)
class Stage:
    """A command and what it writes, relative to the folder it works in."""

    name: str
    arguments: tuple[str, ...]  # {} is that folder
    outputs: tuple[str, ...]

    def command(self, folder: Path) -> list[str]:
        """Return the command line for a folder."""
        return [sys.executable, *(part.replace("{}", str(folder)) for part in self.arguments)]


def all_stages(config: TortureConfig) -> list[Stage]:
    """Return the stages in order; each reads what the ones before it wrote."""
    tables = ("--interactions", "{}/log/interactions", "--items", "{}/log/items.parquet")
    where = ("--data-dir", "{}/data", "--output-dir", "{}/run")
    one = ("--num-threads", "1")
    return [
        Stage("prepare", ("-m", "seqrec.prepare", *tables, "--output-dir", "{}/data"), ("data",)),
        Stage(
            "finetune",
            ("teacher/finetune.py", *where, *one, "--device", "cpu", "--model", config.model)
            + ("--num-layers", "1", "--num-epochs", "4"),
            ("run/teacher", "run/knowledge"),
        ),
        Stage(
            "distill",
            ("-m", "student.distill", *where, *one, "--device", "cpu")
            + ("--num-epochs", "6", "--evaluate-every", "1", "--hidden-dim", "32"),
            ("run/students", "run/soft-targets", "run/auxiliary-teachers"),
        ),
        Stage("export", ("-m", "export.to_onnx", *where), ("run/export",)),
        Stage(
            "mobile",
            ("-m", "export.to_mobile", "--model-dir", "{}/run/export/gru-distilled-int8"),
            ("run/mobile",),
        ),
    ]


def torture(config: TortureConfig) -> list[dict[str, Any]]:
    """Run, kill and compare; return the rows.

    Raises:
        ModelError: a stage fails even when it is left in peace.
    """
    shutil.rmtree(config.output_dir, ignore_errors=True)
    whole, killed = (config.output_dir.absolute() / name for name in ("whole", "killed"))
    stages = all_stages(config)
    if strange := set(config.stages) - {stage.name for stage in stages}:
        raise ModelError(f"--stages {min(strange)}: expected {', '.join(s.name for s in stages)}")
    make_log(
        LogConfig(
            output_dir=whole / "log",
            num_events=12 * config.num_users,
            num_users=config.num_users,
            num_items=60,
            seed=config.seed,
        )
    )
    seconds = {}
    for stage in tqdm(stages, desc="undisturbed", unit="stage"):
        start = time.perf_counter()
        finish(stage, whole)
        seconds[stage.name] = time.perf_counter() - start
    shutil.copytree(whole / "log", killed / "log")
    rng = np.random.default_rng(config.seed)
    chosen = [stage for stage in stages if not config.stages or stage.name in config.stages]
    shares = [len(part) for part in np.array_split(np.arange(config.num_kills), len(chosen))]
    rows = []
    with tqdm(total=config.num_kills, desc="killed", unit="kill") as bar:
        for stage in stages:
            left = shares[chosen.index(stage)] if stage in chosen else 0
            while left:
                moments = rng.uniform(0, seconds[stage.name], min(left, KILLS_IN_A_ROW)).tolist()
                for output in stage.outputs:
                    shutil.rmtree(killed / output, ignore_errors=True)
                rows.append(kill_and_finish(stage, killed, whole, moments))
                left -= len(moments)
                bar.update(len(moments))
            if stage not in chosen:
                finish(stage, killed)
    return rows


def kill_and_finish(
    stage: Stage, folder: Path, whole: Path, moments: Sequence[float]
) -> dict[str, Any]:
    """Start a stage and kill it after so many seconds, again and again; then let it finish.

    Where it has ended by then, it begins anew and has half as long.
    """
    kills = []
    for moment in moments:
        while not kill_after(stage.command(folder), moment):
            for output in stage.outputs:
                shutil.rmtree(folder / output, ignore_errors=True)
            moment /= 2
        kills.append(round(moment, 2))
    checkpoints = num_checkpoints(folder)
    said = finish(stage, folder)
    return {
        "stage": stage.name,
        "kills": kills,
        "checkpoints": checkpoints,
        "resumed": said.count("resumed after epoch"),
        "different": different(stage, folder, whole),
        "unfinished": unfinished(folder),
    }


def num_checkpoints(folder: Path) -> int:
    """Return how many trainings could go on from a checkpoint in a folder."""
    return sum(
        not any(part.startswith(".") for part in path.relative_to(folder).parts)
        for path in folder.rglob("progress.json")
    )


def is_bad(row: dict[str, Any]) -> bool:
    """Tell whether a row shows that something was lost."""
    lost = row["checkpoints"] > 0 and row["resumed"] == 0
    return bool(row["different"] or row["unfinished"] or lost)


def environment() -> dict[str, str]:
    """Return a stage's environment variables."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def kill_after(command: list[str], seconds: float) -> bool:
    """Start a command and kill its process group; False if it had ended by itself."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return True
    return False


def finish(stage: Stage, folder: Path) -> str:
    """Run a stage to its end and return what it said.

    Raises:
        ModelError: it failed.
    """
    done = subprocess.run(
        stage.command(folder),
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ModelError(
            f"{stage.name} failed (exit code {done.returncode}: {last_line(done.stderr)}). "
            f"What it left is in {folder}"
        )
    return done.stderr


def different(stage: Stage, folder: Path, whole: Path) -> list[str]:
    """Return the paths of files that two folders do not both hold with the same bytes."""
    found = [_digests(stage, place) for place in (folder, whole)]
    return sorted({path for path, _ in found[0].items() ^ found[1].items()})


def _digests(stage: Stage, folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for output in stage.outputs
        for path in (folder / output).rglob("*")
        if path.suffix in COMPARED or path.name == "items.json"
    }


def unfinished(folder: Path) -> list[str]:
    """Return the paths of what is not whole or was replaced."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob(".*") if path.suffix in UNFINISHED
    )


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a text table that ends in a newline."""
    cells = [
        [
            row["stage"],
            ", ".join(f"{moment:.1f}" for moment in row["kills"]) or "-",
            row["checkpoints"],
            row["resumed"],
            ", ".join(row["different"]) or "none",
            ", ".join(row["unfinished"]) or "none",
        ]
        for row in rows
    ]
    headers = ["stage", "killed after s", "checkpoints", "resumed", "files that differ"]
    headers += ["unfinished"]
    table = tabulate(cells, headers=headers)
    kills = sum(len(row["kills"]) for row in rows)
    bad = sum(map(is_bad, rows))
    return f"{table}\n\n{kills} kills; {bad} of {len(rows)} ends differ or lost a checkpoint\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Torture as the command line asks."""
    config = parse_flags(TortureConfig, (__doc__ or "").partition("\n")[0], argv)
    rows = torture(config)
    write_json(config.output_dir / "torture.json", rows)
    sys.stdout.write(format_rows(rows))
    if any(map(is_bad, rows)):
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
