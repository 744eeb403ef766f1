"""A recommender for phones and small devices. Entry point: `python -m export.to_mobile`.

    python -m export.to_mobile --model-dir runs/ml-100k/export/gru-distilled-int8

The directory is the export's, with the model in ONNX Runtime's own format in place of the ONNX
file, for the onnxruntime of Android and iOS. Neither was tried: only this machine's runtime was.

    model.ort       answers as model.onnx does, which is checked here before anything is written
    required_operators_and_types.config    what a runtime built for this model alone has to hold:
                    `build.sh --include_ops_by_config FILE --enable_reduced_operator_type_support`
    config.json, items.json, README.md     as in the export; `model_file` names model.ort

It is a recommender directory: `export.recommender` reads it as well. Optimizations are done while
converting, so the file holds the item table twice, once for the lookup and once, transposed, for
the scores: it is about twice as large as the ONNX file.
"""

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqrec.config import flag, parse_flags
from seqrec.errors import ModelError, run_main
from seqrec.files import (
    atomic_directory,
    read_json,
    require_replaceable,
    sha256_file,
    write_json,
)

import numpy as np
import onnx

from export.quantize import quiet
from export.recommender import OUTPUT_NAMES, Recommender, open_session
from export.table import restore_at_lookup

logger = logging.getLogger(__name__)

MODEL_FILE = "model.ort"
OPERATORS = "required_operators_and_types.config"
LEFT_BEHIND = {"model.onnx", "config.json", "text_map.safetensors"}
NUM_COMPARED = 100  # histories


@dataclass(frozen=True, kw_only=True)
class ToMobileConfig:
    """Flags of `export.to_mobile`."""

    model_dir: Path = flag(
        Path("runs/ml-100k/export/transformer-distilled-int8"),
        "exported student, from export.to_onnx",
    )
    output_dir: Path | None = flag(
        None, "directory to write; default mobile/<its name> beside export"
    )


def to_mobile(config: ToMobileConfig) -> Path:
    """Write the directory, whole or not at all, and return it.

    Raises:
        ModelError: there is no recommender in `model_dir`, it is damaged, or the converted model
            does not answer as the ONNX file does.
        DataError: the directory to write holds something else.
    """
    # Not at the top: it sets up logging when it is imported, and ours would come too late.
    from onnxruntime.tools.convert_onnx_models_to_ort import (
        OptimizationStyle,
        convert_onnx_models_to_ort,
    )

    recommender = Recommender.from_pretrained(config.model_dir)
    about = read_json(config.model_dir / "config.json")
    if "model_file" in about:
        raise ModelError(
            f"{config.model_dir} holds {about['model_file']} already. Name an export: "
            "--model-dir runs/NAME/export/gru-distilled-int8"
        )
    folder = config.output_dir or config.model_dir.parent.parent / "mobile" / config.model_dir.name
    require_replaceable(folder, MODEL_FILE, ours=(folder / MODEL_FILE).is_file())
    with atomic_directory(folder) as beside:
        with tempfile.TemporaryDirectory(dir=beside.parent) as temporary:
            source = Path(temporary) / "model.onnx"
            model = onnx.load(config.model_dir / "model.onnx")
            restore_at_lookup(model)  # or the file would hold a small table in fp32, too
            onnx.save(model, source)
            with quiet("ort_format_model.utils"):
                convert_onnx_models_to_ort(
                    source.parent,
                    optimization_styles=[OptimizationStyle.Fixed],
                    target_platform="arm",  # nothing that suits only the machine we run on
                    enable_type_reduction=True,
                )
            for name in (MODEL_FILE, OPERATORS):
                shutil.copy(source.with_name(name), beside / name)
        check_answers(recommender, beside / MODEL_FILE)
        for name in sorted(about["sha256"].keys() - LEFT_BEHIND):
            shutil.copy(config.model_dir / name, beside / name)
        if (config.model_dir / "README.md").is_file():
            shutil.copy(config.model_dir / "README.md", beside / "README.md")
        kept = {name: value for name, value in about.items() if name != "text_map"}
        names = sorted({MODEL_FILE, *about["sha256"]} - LEFT_BEHIND)
        checksums = {name: sha256_file(beside / name) for name in names}
        write_json(beside / "config.json", {**kept, "model_file": MODEL_FILE, "sha256": checksums})
    size = (folder / MODEL_FILE).stat().st_size / 2**20
    logger.info("wrote %s; the model takes %.2f MiB", folder, size)
    return folder


def check_answers(recommender: Recommender, file: Path, seed: int = 0) -> None:
    """Compare a converted model's answers with those of the recommender it was made from.

    Args:
        recommender: opened from the ONNX file.
        file: the converted model.
        seed: of the random histories, of 1 to `max_len` items.

    Raises:
        ModelError: items or scores differ at all: on one machine the arithmetic is the same.
    """
    session = open_session(file, num_threads=1)
    rng, num_items = np.random.default_rng(seed), len(recommender.item_ids)
    for _ in range(NUM_COMPARED):
        items = rng.integers(1, num_items + 1, (1, rng.integers(1, recommender.max_len + 1)))
        feeds = {"items": items, "excluded": items[:, :3], "k": np.array([min(10, num_items)])}
        theirs = recommender.session.run(OUTPUT_NAMES, feeds)
        ours = session.run(OUTPUT_NAMES, feeds)
        if not all(map(np.array_equal, theirs, ours)):
            raise ModelError(
                f"{file.name} does not answer a history of {items.shape[1]} items as model.onnx "
                "does. Nothing was written"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the directory that the command line asks for."""
    to_mobile(parse_flags(ToMobileConfig, (__doc__ or "").partition("\n")[0], argv))


if __name__ == "__main__":
    run_main(main)
