"""Moved to `export.onnx_graph.quantize`. To be removed."""

from export.onnx_graph.quantize import *  # noqa: F403
