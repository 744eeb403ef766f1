"""To remove: it is `export.onnx_graph.quantize` now."""

from export.onnx_graph.quantize import *  # noqa: F403
