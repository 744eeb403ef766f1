"""A day's log to a recommender that serves: `python -m export.nightly`.

    python -m export.nightly --interactions log/2026-05-02.parquet --items catalogue.csv \
        --root nightly --day 2026-05-02

runs the stages one after the other, each in a process of its own, in folders of the day:

    nightly/data/DAY    prepared; goes on from the newest day before, if there is one
    nightly/runs/DAY    teacher, students and exports; they start from that day's, or `--anew`
    nightly/serving     the recommender; replaced if the new one is as good (`export.publish`)

The first day's log is the whole log, and its training takes the time that this needs. Exit code 1:
the new recommender is not as good, and the old one serves on; another one above 0: a stage failed.
Type the same command again after a failure or a kill: what is finished is skipped, what was begun
goes on.
"""

import datetime
import logging
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from seqrec.config import parse_flags
from seqrec.errors import run_main

from export.config import NightlyConfig

logger = logging.getLogger(__name__)


def day_before(root: Path, day: str, export: str) -> str | None:
    """Return the newest day before `day` of which there is an export, None if there is none."""
    exports = (root / "runs").glob(f"*/export/{export}/config.json")
    days = [file.parents[2].name for file in exports]
    return max((name for name in days if name < day), default=None)


def stages(config: NightlyConfig, day: str) -> list[list[str]]:
    """Return the commands of a day in their order, without `python -m`.

    A data set that is there is whole, and not prepared again: training that was begun would be of
    another one.
    """
    root, export = config.root, f"{config.arch}-distilled-int8"
    data, run, before = root / "data" / day, root / "runs" / day, day_before(root, day, export)
    paths = ["--data-dir", str(data), "--output-dir", str(run)]
    prepare = ["seqrec.prepare", "--interactions", str(config.interactions)]
    if config.items is not None:
        prepare += ["--items", str(config.items)]
    start, since = [], []
    if before is not None:
        prepare += ["--continue", str(root / "data" / before)]
        start = [] if config.anew else ["--init-from", str(root / "runs" / before)]
        since = ["--since", str(root / "data" / before)]
    publish = ["export.publish", "--data-dir", str(data), *since]
    publish += ["--model-dir", str(run / "export" / export), "--serving-dir", str(root / "serving")]
    return [
        *([] if data.exists() else [[*prepare, "--output-dir", str(data)]]),
        ["accelerate.commands.launch", "-m", "teacher.finetune", *paths, *start],
        ["student.distill", "--arch", config.arch, *paths, *start],
        ["export.to_onnx", *paths],
        publish,
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stages of a day; end as the first one that fails."""
    config = parse_flags(NightlyConfig, (__doc__ or "").partition("\n")[0], argv)
    day = config.day or datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    for stage in stages(config, day):
        logger.info("%s", shlex.join(stage))
        done = subprocess.run([sys.executable, "-m", *stage], check=False)
        if done.returncode:
            raise SystemExit(done.returncode)


if __name__ == "__main__":
    run_main(main)
