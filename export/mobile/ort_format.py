"""Converts a recommender to ONNX Runtime's own format; `export.to_mobile` is the command."""

import logging
import shutil
import tempfile
from pathlib import Path

from seqrec.errors import ModelError
from seqrec.files import atomic_directory, require_replaceable

import onnx

from export.config import ToMobileConfig
from export.onnx_graph.item_table import restore_at_lookup
from export.parity import require_same_answers
from export.quiet import quiet
from export.recommender import RECOMMENDER, Recommender, open_session

logger = logging.getLogger(__name__)

MODEL_FILE = "model.ort"
OPERATORS = "required_operators_and_types.config"


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
    exported = recommender.config
    if "model_file" in exported or "index" in exported:
        what = "an index" if "index" in exported else f"{exported['model_file']} already"
        raise ModelError(
            f"{config.model_dir} holds {what}. Name an export: "
            "--model-dir runs/NAME/export/gru-distilled-int8"
        )
    folder = config.output_dir or config.model_dir.parent.parent / "mobile" / config.model_dir.name
    require_replaceable(folder, MODEL_FILE, ours=(folder / MODEL_FILE).is_file())
    with atomic_directory(folder) as beside:
        with tempfile.TemporaryDirectory(dir=beside) as temporary:
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
        require_same_answers(
            open_session(beside / MODEL_FILE, num_threads=1),
            recommender,
            f"{MODEL_FILE} does not answer as model.onnx does",
            tolerance=0,  # on one machine the arithmetic is the same
        )
        shutil.copy(config.model_dir / "items.json", beside / "items.json")
        if (config.model_dir / "README.md").is_file():
            shutil.copy(config.model_dir / "README.md", beside / "README.md")
        # A text map makes rows for the table of an ONNX file.
        kept = {name: value for name, value in exported.items() if name != "text_map"}
        RECOMMENDER.write(beside, {**kept, "model_file": MODEL_FILE}, (MODEL_FILE, "items.json"))
    size = (folder / MODEL_FILE).stat().st_size / 2**20
    logger.info("wrote %s; the model takes %.2f MiB", folder, size)
    return folder
