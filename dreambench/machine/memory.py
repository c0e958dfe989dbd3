"""The most memory that some work takes at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """What `measured_peak` found: bytes, once the work is over; None where nothing counts them."""

    n_bytes: int | None = None


@contextmanager
def measured_peak(device: str) -> Iterator[Peak]:
    """Find the most memory that a device holds at once in a block.

    On a CPU it is that of this whole process, by Linux's own count, with what it holds already. The
    count begins anew: what the process took before is forgotten, by `getrusage` as well.
    """
    import torch  # noqa: PLC0415  (slow import)

    module = torch.get_device_module(device)
    peak = Peak()
    if torch.device(device).type == "cpu":
        _forget_peak()
        yield peak
        peak.n_bytes = _read_peak()
    elif hasattr(module, "reset_peak_memory_stats"):
        module.reset_peak_memory_stats(device)
        yield peak
        peak.n_bytes = int(module.max_memory_allocated(device))
    else:
        yield peak


def _forget_peak() -> None:
    """Let the system count from here (proc(5), clear_refs)."""
    try:
        _FORGET.write_text("5")
    except OSError:
        return  # Not Linux, or a sandbox: it then counts from the start of the process.


def _read_peak() -> int | None:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None
