"""Commands take any device that torch has, by its name."""

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import invoke
from PIL import Image

from dreambench.machine.devices import describe_compute, free_memory, name_device, pick_device
from dreambench.machine.throughput import Setting, note_speed
from dreambench.scoring import process
from dreambench.storage.files import read_json
from second_device.device import NAME

# With this folder in its path, torch registers the device wherever it is imported.
AUTOLOAD = Path(__file__).parent / "autoload"


def test_a_run_trains_draws_and_scores_there(tiny, tmp_path, monkeypatch):
    # The process that scores imports torch anew, which loads devices that are installed.
    monkeypatch.setattr(process, "_SEARCH_PATH", [*sys.path, str(AUTOLOAD)])
    process.stop_scoring()
    invoke(
        "run", "--protocol", tiny[0], "--method", tiny[1], "--alongside", "", "--subjects", "dog",
        "--prompts", "red", "--set", "n_steps=1", "--set", "prior_weight=0", "--device", NAME,
        "--out", tmp_path / "runs", "--cache", tmp_path / "cache",
    )  # fmt: skip
    (folder,) = (tmp_path / "runs" / "tiny").glob("quick*")
    manifest = read_json(folder / "run.json")
    assert manifest["device"] == NAME
    assert manifest["sessions"][0]["compute"]["device"] == "Second device"
    images = sorted(folder.glob("images/*/*/*.png"))
    assert len(images) == 4
    assert Image.open(images[0]).getextrema()[0][1] > 100
    assert {*read_json(folder / "summary.json")["metrics"]} >= {"dino", "clip-t"}


@pytest.mark.parametrize("name", [NAME, f"{NAME}:0"])
def test_a_device_is_known_by_its_name(name):
    assert pick_device(name) == name
    assert name_device(name) == describe_compute(name).device == "Second device"


def test_its_memory_is_freed():
    before = torch.second.n_emptied
    free_memory(NAME)
    assert torch.second.n_emptied == before + 1
    free_memory("cpu")


def test_hours_there_are_told_by_its_speed(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_CACHE", str(tmp_path))
    own = Setting("Second device", "mini", 64, "fp32")
    note_speed(tmp_path, own, "network_call", seconds_per_unit=36.0)
    words = ("plan", "--method", "class-only", "--protocol", "mini", "--device", NAME, "--json")
    found = json.loads(invoke(*words).stdout)
    assert found["hours"]["generating"] == found["n_network_calls"] / 100
