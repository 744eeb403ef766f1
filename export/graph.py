"""To remove: it is `export.onnx_graph.graph` now."""

from export.onnx_graph.graph import *  # noqa: F403
