"""The command `loop2p`: starting services, running sessions, reading records, benchmarks."""

import os

# Before anything imports numpy. The matrices here are small and every process has its share of the cores: a second
# BLAS thread spins on another service's core (measured: registration stalled for 60 ms instead of taking 1 ms).
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
