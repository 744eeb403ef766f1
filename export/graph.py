"""Moved to `export.onnx_graph.graph`. To be removed."""

from export.onnx_graph.graph import *  # noqa: F403
