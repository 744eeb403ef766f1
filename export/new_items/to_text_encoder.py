"""Writes the language model as an ONNX file; `export.to_text_encoder` is the command."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqrec.errors import ModelError
from seqrec.files import atomic_directory, require_replaceable, says

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from export.cards import fill, front_matter, licence_of
from export.config import ToTextEncoderConfig
from export.new_items.add_items import read_text_map
from export.new_items.text_encoder import MODEL, TEXT_ENCODER, TOKENIZER, TextEncoder
from export.onnx_graph.builder import GraphBuilder, eight_bit_share, quantize_rows
from export.quiet import quiet
from export.recommender import Recommender

logger = logging.getLogger(__name__)

NUM_COMPARED = 256  # texts
LEAST_COSINE = 0.98  # with the rows that the language model's own vectors give


def to_text_encoder(config: ToTextEncoderConfig) -> Path:
    """Write the directory, whole or not at all, and return it.

    Raises:
        ModelError: there is no distilled student in `model_dir`, its language model is another one
            today, or the exported one says something else.
        DataError: the directory to write holds something else.
        SourceError: the language model cannot be had.
    """
    # In a function only: clients of this package have no language model.
    from teacher.text import read_texts, resolve_reader

    recommender = Recommender.from_pretrained(config.model_dir)
    text_map = read_text_map(config.model_dir, recommender.config)
    reader = recommender.config["text_map"]["reader"]
    source = resolve_reader(reader)
    folder = config.output_dir or config.model_dir.parent / "text-encoder"
    ours = says(folder / "config.json", "format", TEXT_ENCODER.format)
    require_replaceable(folder, "text encoder", ours=ours)
    with atomic_directory(folder) as beside:
        with tempfile.TemporaryDirectory(dir=beside) as temporary:
            max_tokens = _trace(source, reader, Path(temporary))
            model = onnx.load(Path(temporary) / MODEL)
            store_in_eight_bit(model)
            onnx.save(model, beside / MODEL)
            (beside / TOKENIZER).write_bytes((Path(temporary) / TOKENIZER).read_bytes())
        description: dict[str, Any] = {
            "reader": reader,
            "max_tokens": max_tokens,
            "eight_bit_share": eight_bit_share(model),
        }
        TEXT_ENCODER.write(beside, description, (MODEL, TOKENIZER))
        texts = recommender.titles[:NUM_COMPARED]
        expected = read_texts(texts, source, bits=reader["bits"], num_layers=reader["num_layers"])
        vectors = TextEncoder.from_pretrained(beside).encode(texts)
        cosines = cosine(text_map.rows(expected), text_map.rows(vectors))
        if (least := float(cosines.min())) < LEAST_COSINE:
            raise ModelError(
                f"the exported language model reads {texts[int(cosines.argmin())]!r} otherwise "
                f"than it did: cosine {least:.3f}, {LEAST_COSINE} is asked for. Nothing was written"
            )
        mean = float(cosines.mean())
        description["cosine"] = {"mean": mean, "least": least, "num_texts": len(texts)}
        TEXT_ENCODER.write(beside, description, (MODEL, TOKENIZER))
        size_mib = (beside / MODEL).stat().st_size / 2**20
        (beside / "README.md").write_text(_model_card(description, size_mib), encoding="utf-8")
    logger.info("wrote %s, %.1f MiB; least cosine %.4f", folder, size_mib, least)
    return folder


def _trace(source: Path, reader: Mapping[str, Any], folder: Path) -> int:
    """Write the language model as an fp32 ONNX file, and its tokenizer, into a folder.

    Returns:
        How many tokens of a text it reads.

    Raises:
        ModelError: Optimum cannot trace it, or its tokenizer needs Python.
    """
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    from teacher.base import load_restored, load_tokenizer
    from teacher.check_folder import article, first_line
    from teacher.text import text_limit

    restored = load_restored(source, bits=reader["bits"], num_layers=reader["num_layers"])
    restored.save_pretrained(folder / "restored")
    load_tokenizer(source).save_pretrained(folder)
    kind = article(restored.config.model_type)
    otherwise = "Add items where PyTorch is: export.add_items without --text-encoder"
    if not (folder / TOKENIZER).is_file():
        raise ModelError(
            f"{reader['model']} has a tokenizer that runs in Python alone (no {TOKENIZER}). "
            f"{otherwise}"
        )
    try:
        with quiet("optimum"):
            traced = ORTModelForFeatureExtraction.from_pretrained(folder / "restored", export=True)
            traced.save_pretrained(folder)
    # It knows some kinds of models, and says of the others why not in many ways.
    except Exception as error:
        raise ModelError(
            f"{reader['model']} is {kind}, which Optimum cannot trace ({first_line(error)}). "
            f"{otherwise}"
        ) from error
    return text_limit(restored)


def store_in_eight_bit(model: ModelProto) -> None:
    """Store the matrices of a traced model in 8 bit, in place.

    A matrix that is multiplied, (K, N), has a scale for each column, and is restored when the file
    is loaded; one that is looked up, (V, L), has a scale for each row, and stays in 8 bit. GPT-2's
    and OPT's layers are `Gemm`, which multiplies in the same way, or has the matrix turned, (N, K).
    """
    matrices = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2
    }
    graph = GraphBuilder("int8", prefix="stored_")
    stored: dict[tuple[str, bool], list[str]] = {}  # names of levels and scales
    for node in model.graph.node:
        index = {"Gather": 0, "MatMul": 1, "Gemm": 1}.get(node.op_type)
        name = "" if index is None else node.input[index]
        if name not in matrices:
            graph.nodes.append(node)
            continue
        is_lookup = node.op_type == "Gather"
        by_rows = is_lookup or any(flag.name == "transB" and flag.i for flag in node.attribute)
        if (name, by_rows) not in stored:
            parts = quantize_rows(matrices[name] if by_rows else matrices[name].T)
            stored[name, by_rows] = [graph.constant(p if by_rows else p.T) for p in parts]
        levels, scales = stored[name, by_rows]
        if is_lookup:
            levels = graph.node("Gather", levels, node.input[1])
            scales = graph.node("Gather", scales, node.input[1])
        floats = graph.node("Cast", levels, to=TensorProto.FLOAT)
        restored = graph.node("Mul", floats, scales, output=node.output[0] if is_lookup else "")
        if not is_lookup:
            node.input[1] = restored
            graph.nodes.append(node)
    replaced = {name for name, _ in stored}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in replaced]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(graph.nodes)
    model.graph.initializer.extend([*kept, *graph.constants])


def cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosines of two sets of vectors (N, L), row by row, (N,).

    >>> cosine(np.array([[3.0, 4.0]]), np.array([[4.0, 3.0]])).round(2).tolist()
    [0.96]
    """
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: NDArray[np.float32] = (first * second).sum(axis=1) / np.maximum(lengths, 1e-12)
    return cosines


def _model_card(description: Mapping[str, Any], size_mib: float) -> str:
    """Return the model card as Markdown."""
    reader = description["reader"]
    licence, licence_id = licence_of(reader["model"])
    num_layers = reader["num_layers"]
    values = {
        "metadata": front_matter(license=licence_id, library_name="onnxruntime", tags=["onnx"]),
        "licence": licence,
        "layers": f"first {num_layers} layers" if num_layers else "all layers",
        "size_mib": size_mib,
    }
    return fill("text_encoder", {**description, **values})
