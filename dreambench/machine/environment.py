"""Which versions made something: packages, Python, and the commit of this package."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime

from dreambench import __version__
from dreambench.artifacts.manifest import CodeState, Session
from dreambench.machine.devices import describe_compute
from dreambench.storage.shipped import PACKAGE_DIR

PACKAGES = (
    "torch", "diffusers", "transformers", "peft", "timm", "open_clip_torch", "numpy", "pillow",
    "opencv-python-headless", "safetensors",
)  # fmt: skip


def describe_code() -> CodeState:
    """Return version and, in a git checkout, commit and whether files differ from it."""
    root = PACKAGE_DIR.parent
    if not (root / ".git").exists():
        return CodeState(version=__version__, commit=None, dirty=None)
    try:
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--", "dreambench", "protocols", "baselines")
    except (OSError, subprocess.CalledProcessError):
        return CodeState(version=__version__, commit=None, dirty=None)
    return CodeState(version=__version__, commit=commit, dirty=bool(changes))


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=PACKAGE_DIR.parent, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def describe_packages() -> dict[str, str]:
    """Return the versions of the packages that numbers depend on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def describe_session(device: str, *, n_threads: int | None = None) -> Session:
    """Return versions and kind of hardware of this session; no host, user or path.

    `n_threads` are the threads that a protocol fixes.
    """
    return Session(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages=describe_packages(),
        code=describe_code(),
        compute=describe_compute(device, n_threads=n_threads),
    )
