"""The ground that teacher, student, export and benchmarks share."""

import os

# Waiting OpenMP threads that spin slow a step down twentyfold when a core is busy. libgomp reads
# this once, when torch is loaded: entry points therefore import `seqrec` before anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The tokenizers' threads warn when a process forks after using them.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
