"""To remove: it is `export.onnx_graph.builder` now."""

from export.onnx_graph.builder import *  # noqa: F403
