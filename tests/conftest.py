"""Settings of the whole test run."""

import os

# Small products on two threads spend their time waiting for each other. Set before NumPy and
# torch are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
