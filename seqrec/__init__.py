"""The ground that teacher, student, export and benchmarks share.

Import it before torch and onnxruntime: what they read from the environment they read once, when
they are loaded. A variable that is set already is left as it is.
"""

import logging
import os
import sys

# Waiting OpenMP threads that spin without end slow a step down twentyfold when a core is busy;
# threads that sleep at once make it half as fast when none is. So they spin for a moment.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# The tokenizers' threads warn when a process forks after using them.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Nothing is told to anyone. ONNX Runtime, from 1.32 on, would leave an id of the device in HOME as
# soon as it is loaded, start a thread, and report the machine to its vendor; the model hub's client
# and Ray would report versions and use.
TOLD_BEFORE = "onnxruntime" in sys.modules and "ORT_DISABLE_TELEMETRY" not in os.environ
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if TOLD_BEFORE:
    logging.getLogger(__name__).warning(
        "onnxruntime was loaded before this, and reports to its vendor unless it is told not to "
        "before it is loaded. Set ORT_DISABLE_TELEMETRY=1, or import export.recommender first"
    )
