"""How many processes make images at once, and on which devices."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dreambench.machine.devices import count_cores
from dreambench.methods.plugins import check_recipe
from dreambench.methods.registry import read_settings
from dreambench.preflight.cost_estimate import estimate_memory
from dreambench.runs.run_folder import Run


def choose_workers(
    planned: Sequence[Run], devices: Sequence[str], n_asked: int | None
) -> list[str]:
    """Return the device of each worker: as many as asked for, spread over `devices`.

    Where nothing is asked for, it is one a device. On a CPU, whose protocol says how many threads a
    worker takes, there are as many as cores and memory have room for, and units to do.
    """
    n_workers = len(devices) if n_asked is None else n_asked
    if n_asked is None and list(devices) == ["cpu"]:
        n_workers = _count_cpu_workers(planned)
    return [devices[index % len(devices)] for index in range(n_workers)]


def _count_cpu_workers(planned: Sequence[Run]) -> int:
    n_threads = planned[0].protocol.n_threads
    if n_threads is None:
        return 1  # It takes all cores.
    n_units = sum(len(run.subjects) for run in planned)
    n_rooms = _read_memory() // max(map(_estimate, planned))
    return max(1, min(count_cores() // n_threads, n_units, n_rooms))


def _read_memory() -> int:
    """Return the bytes of memory of this machine; of a system that does not say, none to spare."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def _estimate(run: Run) -> int:
    recipe, base = run.recipe, run.base_model
    return estimate_memory(
        read_settings(recipe, base.name), check_recipe(recipe, base), base,
        size_px=run.manifest.sampler.size_px, precision=run.manifest.precision,  # type: ignore[arg-type]
    )  # fmt: skip
