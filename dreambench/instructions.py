"""Instruction sets: the widest that all machines have, so that their sums run in one order.

A CPU with AVX-512 adds up in another order than one with AVX2, and training amplifies the last bits
(`reports/benchmarks/reproducibility.md`, with what the limit costs).
"""

from __future__ import annotations

import os

LIMITS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2,STRICT"}
"""Settings of torch's own kernels, of oneDNN and of MKL, which they read when first used.

Without MKL's strict mode, sums on Intel's CPUs depend on how many rows are multiplied at once, and
so an image's features on its neighbours in the batch.
"""


def limit_instructions() -> None:
    """Set what the environment does not set itself; to be called before torch is used."""
    for name, value in LIMITS.items():
        os.environ.setdefault(name, value)
