"""What this machine has and lacks: device, memory, disk, packages, weights, photos."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from dreambench.base_models import BASE_MODELS
from dreambench.encoders import ENCODERS
from dreambench.files import cache_dir
from dreambench.run import PACKAGES
from dreambench.subjects import check_files, find_dataset, read_index


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis; `ok` is None for what is neither good nor bad."""

    section: str
    name: str
    ok: bool | None
    text: str


def check_machine() -> list[Finding]:
    """Device, memory, disk and package versions."""
    found = [Finding("machine", "python", None, f"{platform.python_version()}, {os.name}")]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            text = f"{about.name}, {about.total_memory / 1e9:.0f} GB"
            found.append(Finding("machine", f"cuda:{index}", True, text))
    else:
        text = "no CUDA device: mini runs on the CPU, the paper's benchmark wants a GPU"
        found.append(Finding("machine", "device", None, text))
    memory = psutil.virtual_memory()
    text = f"{memory.total / 1e9:.0f} GB, {memory.available / 1e9:.0f} GB free"
    found.append(Finding("machine", "memory", memory.available > 4e9, text))
    found.append(Finding("machine", "cores", None, str(os.cpu_count())))
    for name, folder in (("here", Path.cwd()), ("cache", cache_dir())):
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(nearest).free
        found.append(Finding("machine", f"disk {name}", free > 2e9, f"{free / 1e9:.0f} GB free"))
    for package in PACKAGES:
        found.append(Finding("packages", package, None, importlib.metadata.version(package)))
    return found


def check_weights() -> list[Finding]:
    """For each encoder and base model: present, or what to bring and where to put it."""
    found = []
    for spec in ENCODERS.values():
        path = spec.find_local()
        text = spec.how_to_bring
        if path is not None:
            text = "shipped" if spec.shipped else f"present, {path}"
        found.append(Finding("encoders", spec.name, path is not None, text))
    for model in BASE_MODELS.values():
        is_here, text = model.is_here(), "present"
        if not is_here:
            where = f"{model.location} at {model.revision}"
            text = f"bring {where} and pass --base-model {model.name}=FOLDER"
        found.append(Finding("base models", model.name, is_here, text))
    return found


def check_photos(data_dir: Path | None) -> Finding:
    """How many of the paper's photos are here with the pinned bytes."""
    dataset = find_dataset("dreambooth", photos_dir=data_dir)
    files = read_index(dataset).files
    n_right = len(files) - len(check_files(dataset, files))
    text = f"{n_right} of {len(files)} in {dataset.photos_dir}"
    if n_right < len(files):
        text += "; get them with: dreambench data fetch"
    return Finding("photos", "dreambooth", n_right == len(files), text)
