"""Moved to `export.onnx_graph.builder`. To be removed."""

from export.onnx_graph.builder import *  # noqa: F403
