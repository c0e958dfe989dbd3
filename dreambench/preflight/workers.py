"""How many workers make images at once, and on which devices."""

from __future__ import annotations

from collections.abc import Sequence

import psutil

from dreambench.errors import UserError
from dreambench.machine.devices import count_cores, pick_devices
from dreambench.methods.plugins import check_recipe
from dreambench.methods.registry import read_settings
from dreambench.preflight.cost_estimate import estimate_memory
from dreambench.runs.executors.ray import Needs, connect, find_gpu_share
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


def find_devices(names: str, *, is_remote: bool, address: str | None) -> list[str]:
    """Return the devices that `--device` names; of a cluster, where nobody can look, as named.

    There "auto" is a GPU where any node has one.

    Raises:
        UserError: there is no such device here, or no cluster at the address.
    """
    if not is_remote:
        return pick_devices(names)
    resources = connect(address)
    if "," in names:
        raise UserError(
            f"--device {names}: a cluster chooses the devices of its nodes itself",
            hint="name one kind, e.g. --device cuda, and how many with --workers",
            code="invalid-value",
        )
    if names == "auto":
        return ["cuda" if resources.get("GPU", 0) >= 1 else "cpu"]
    return [names]


def choose_nodes(
    planned: Sequence[Run], address: str | None, n_asked: int | None
) -> tuple[int, Needs]:
    """Return how many workers a cluster gets, as many as asked for or have room; and their needs.

    Raises:
        UserError: no node has room for one.
    """
    resources = connect(address)
    n_bytes = max(map(_estimate, planned))
    on_cpu = planned[0].device == "cpu"
    needs = Needs(
        n_cpus=planned[0].protocol.n_threads or 1,
        memory_bytes=n_bytes,
        gpu_share=0.0 if on_cpu else find_gpu_share(n_bytes),
    )
    n_rooms = needs.count(resources)
    if not n_rooms:
        share = "" if on_cpu else f", {needs.gpu_share:g} of a GPU"
        raise UserError(
            f"the cluster has no room for a worker, which takes {needs.n_cpus:g} cores and "
            f"{n_bytes / 1e9:.1f} GB of memory{share}",
            hint="add a node, or take a smaller base model",
            code="no-room",
        )
    n_units = sum(len(run.subjects) for run in planned)
    return min(n_rooms, n_units) if n_asked is None else n_asked, needs


def _count_cpu_workers(planned: Sequence[Run]) -> int:
    n_threads = planned[0].protocol.n_threads
    if n_threads is None:
        return 1  # It takes all cores.
    n_units = sum(len(run.subjects) for run in planned)
    n_rooms = psutil.virtual_memory().available // max(map(_estimate, planned))
    return max(1, min(count_cores() // n_threads, n_units, n_rooms))


def _estimate(run: Run) -> int:
    recipe, base = run.recipe, run.base_model
    return estimate_memory(
        read_settings(recipe, base.name), check_recipe(recipe, base), base,
        size_px=run.manifest.sampler.size_px, precision=run.manifest.precision,  # type: ignore[arg-type]
    )  # fmt: skip
