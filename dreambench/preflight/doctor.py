"""What this machine has and lacks: device, memory, disk, packages, weights, photos."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.registry import find_base_model
from dreambench.base_models.spec import BaseModel
from dreambench.config.protocol import Protocol, load_protocol
from dreambench.config.recipe import Recipe, list_recipes, load_recipe
from dreambench.config.sampler import Precision
from dreambench.datasets.index import check_files, find_dataset, read_index
from dreambench.encoders.registry import ENCODERS, SEGMENTERS
from dreambench.encoders.spec import EncoderSpec
from dreambench.machine.environment import PACKAGES
from dreambench.methods.base import QuantizedSettings, Settings, Work
from dreambench.methods.guidance.vqgan import VQGANS
from dreambench.methods.image_prompting.adapters import ADAPTERS
from dreambench.methods.reconstruction.image_to_3d import IMAGE_TO_3D
from dreambench.methods.registry import find_method, read_settings
from dreambench.preflight.cost_estimate import estimate_memory
from dreambench.storage.shipped import cache_dir
from dreambench.storage.snapshots import Snapshot

# What takes less memory, the cheapest first, and the baseline that takes the least.
LOWERING = {"gradient_checkpointing": True, "optimizer": "adamw-8bit"}
SMALLEST_TUNED = "dreambooth-lora"
OFFLOADED = "text encoders on the CPU"


@dataclass(frozen=True)
class Finding:
    """One entry of the diagnosis; `ok` is None for what is neither good nor bad."""

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


def find_memory() -> tuple[str, int]:
    """The device that a run would take, and its bytes: a GPU's own, else what is free here."""
    if torch.cuda.is_available():
        return "cuda", torch.cuda.get_device_properties(0).total_memory
    return "cpu", psutil.virtual_memory().available


def check_recipes(device: str, n_bytes: int) -> list[Finding]:
    """For each baseline and base model whether it fits into a device's memory, or what to lower."""
    found = []
    for name in list_recipes():
        recipe = load_recipe(name)
        parts = [_fit(recipe, BASE_MODELS[base], device, n_bytes) for base in recipe.tables]
        text = "\n".join(part for part, _ in parts)
        found.append(Finding(f"memory, {device}", name, all(is_fit for _, is_fit in parts), text))
    return found


def _fit(recipe: Recipe, base: BaseModel, device: str, n_bytes: int) -> tuple[str, bool]:
    """Whether one baseline fits with one base model; if not, what in its recipe to lower."""
    settings = read_settings(recipe, base.name)
    method = find_method(recipe.method)
    work = method.count_work(settings, base)
    if not (work.uses_base_model or work.other_parameters):
        return f"{base.name} needs none", True
    protocol = load_protocol("mini" if base.name == "mini" else "dreambench")
    size_px = base.choose_sampler(protocol.sampler).size_px

    def need(
        changes: dict[str, object], precision: Precision = "fp32", *, offloads: bool = False
    ) -> int:
        changed = settings.model_copy(update=changes)
        changed_work = method.count_work(changed, base)
        return estimate_memory(
            changed, changed_work, base, size_px=size_px, precision=precision, offloads=offloads
        )

    plain = need({})
    if plain <= n_bytes:
        return f"{base.name} {plain / 1e9:.1f} GB", True
    # A run does so by itself.
    offloads = device != "cpu" and base.n_offloaded_parameters > 0
    if offloads and (least := need({}, offloads=True)) <= n_bytes:
        return f"{base.name} {least / 1e9:.1f} GB, {OFFLOADED}", True
    text = f"{base.name} needs {plain / 1e9:.1f} of {n_bytes / 1e9:.1f} GB"
    lowered, told = _lower(partial(need, offloads=offloads), settings, work, base, n_bytes)
    told = [*told, OFFLOADED] if offloads else told
    if told:
        text += f", {lowered / 1e9:.1f} with {', '.join(told)}"
    if lowered > n_bytes and work.trained_parameters and recipe.name != SMALLEST_TUNED:
        text += f", else take {SMALLEST_TUNED}"
    return text, False


def _lower(
    need: Callable[..., int], settings: Settings, work: Work, base: BaseModel, n_bytes: int
) -> tuple[int, list[str]]:
    """Return the memory after what takes less of it, and what that was: no more than it takes."""
    lowered, told = need({}), []
    changes: dict[str, object] = {}
    for key, value in LOWERING.items() if work.trained_parameters else ():
        if need({**changes, key: value}) < lowered:
            changes[key] = value
            lowered = need(changes)
            told.append(f"{key} = {json.dumps(value)}")
        if lowered <= n_bytes:
            return lowered, told
    if need(changes, "bf16") < lowered:
        lowered = need(changes, "bf16")
        told.append("--precision bf16")
    if lowered <= n_bytes or not isinstance(settings, QuantizedSettings) or base.flow is None:
        return lowered, told
    for form in settings.quantizations:
        lowered = need({**changes, "quantization": form}, "bf16")
        if lowered <= n_bytes or form == settings.quantizations[-1]:
            return lowered, [*told, f"quantization = {json.dumps(form)}"]
    return lowered, told


def check_weights() -> list[Finding]:
    """For each network that is used: present, or what to download and where to put it."""
    found = []
    named: list[tuple[str, EncoderSpec | Snapshot]] = [
        *(("encoders", spec) for spec in ENCODERS.values()),
        *(("segmenters", spec) for spec in SEGMENTERS.values()),
        *(("image adapters", spec) for spec in ADAPTERS.values()),
        *(("VQGANs", spec) for spec in VQGANS.values()),
        *(("image-to-3D models", spec) for spec in IMAGE_TO_3D.values()),
    ]
    for group, spec in named:
        path = spec.find_local()
        text = spec.how_to_get
        if path is not None:
            text = "shipped" if spec.shipped else f"present, {path}"
        found.append(Finding(group, spec.name, path is not None, text))
    for model in BASE_MODELS.values():
        is_here, text = model.is_here(), "present"
        if not is_here:
            text = f"download {model.where} and pass --base-model {model.name}=FOLDER"
        text += f" ({model.terms})"
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


MAIN_METHOD = "dreambooth"
"""Whose memory decides whether a protocol can be run."""


def judge(
    protocol: Protocol, device: str, *, missing: Sequence[str], data_dir: Path | None
) -> Finding:
    """Say in one line whether a protocol can be run here; `missing` are networks that are not."""
    base = find_base_model(protocol.base_model)
    lacks = [f"weights of {name}" for name in missing]
    dataset = protocol.find_dataset(photos_dir=data_dir)
    files = read_index(dataset).files
    if n_lost := len(check_files(dataset, files)):
        lacks.append(f"{n_lost} of {len(files)} photos of {protocol.dataset}")
    recipe = load_recipe(MAIN_METHOD)
    if base.name in recipe.tables:
        text, fits = _fit(recipe, base, *find_memory())
        if not fits:
            lacks.append(f"memory for {MAIN_METHOD}: {text}")
    text = f"Ready: '{protocol.name}' can be run on {device}"
    if lacks:
        text = f"Not ready for '{protocol.name}' on {device}: it lacks {'; '.join(lacks)}"
    return Finding("verdict", protocol.name, not lacks, text)
