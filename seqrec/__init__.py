"""The ground that teacher, student, export and benchmarks share.

Import it before torch: libgomp reads these variables once, when torch is loaded.
"""

import os

# Waiting OpenMP threads that spin without end slow a step down twentyfold when a core is busy;
# threads that sleep at once make it half as fast when none is. So they spin for a moment.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# The tokenizers' threads warn when a process forks after using them.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
