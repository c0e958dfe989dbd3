"""What needs a CUDA device: the main path of mini on it, and scores that are the CPU's."""

import numpy as np
import pytest
import torch
from conftest import invoke
from external_images import draw_images
from PIL import Image

import dreambench
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.encoders.registry import load_encoder
from dreambench.storage.files import read_json
from dreambench.storage.images import load_image

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_and_generating_work_on_the_gpu(precision, tiny, tmp_path):
    protocol, recipe = tiny
    folders = ("--out", tmp_path / "runs", "--cache", tmp_path / "cache")
    words = ("--device", "cuda", "--precision", precision, *folders)
    invoke("run", "--protocol", protocol, "--method", recipe, "--alongside", "class-only", *words)
    folder = tmp_path / "runs" / "tiny" / "quick"
    paths = sorted(folder.glob("images/*/*/*.png"))
    assert len(paths) == 12
    for path in paths:
        with Image.open(path) as image:
            assert image.size == (64, 64)
            assert np.ptp(np.asarray(image)) > 30
    for subject in ("dog", "mug"):
        losses = read_json(folder / "train" / subject / "losses.json")
        assert np.isfinite([row["subject"] for row in losses]).all()
    assert read_json(folder / "run.json")["device"] == "cuda"


@pytest.mark.parametrize(
    ("name", "role"),
    [("mini-vit", "dino"), ("mini-clip", "clip"), ("mini-vit-patches", "perceptual")],
)
def test_features_on_the_gpu_are_those_of_the_cpu(name, role):
    photos = [load_image(path) for s in load_subjects(find_dataset("mini")) for path in s.photos]
    on_cpu, on_gpu = (
        load_encoder(name, role, device=device).encode_images(photos) for device in ("cpu", "cuda")
    )
    assert np.abs(on_cpu - on_gpu).max() < 1e-4


def test_scores_of_given_images_on_the_gpu_are_those_of_the_cpu(tiny, tmp_path):
    keys = ["subject", "prompt_id", "k", "metric"]
    found = []
    for device in ("cpu", "cuda"):
        scored = dreambench.score(
            draw_images(tmp_path / "images"), protocol=str(tiny[0]), name="mine", device=device,
            out=tmp_path / f"scores-{device}", cache=tmp_path / f"cache-{device}",
        )  # fmt: skip
        found.append(scored.scores.set_index(keys)["value"].sort_index())
    on_cpu, on_gpu = found
    assert len(on_cpu) > 50 and on_cpu.index.equals(on_gpu.index)
    assert np.abs(on_cpu - on_gpu).max() < 1e-4
