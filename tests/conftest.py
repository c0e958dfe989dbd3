"""What the tests share: no network, a tiny protocol and recipe, the command line as a process."""

import os
import subprocess
import sys
from pathlib import Path

# Set before any library of the hub is imported: no test touches the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
REAL_PHOTOS = REPOSITORY.parent / "shared" / "dreambooth" / "dataset"

TINY_PROTOCOL = """
title = "two subjects, two prompts, five steps"
source = "tests"
version = 1
dataset = "mini"
subjects = ["dog", "mug"]
base_model = "mini"
n_images_per_prompt = 2
metrics = ["dino", "clip-i", "clip-t", "div", "pres"]

[sampler]
scheduler = "ddim"
n_steps = 5
guidance_scale = 3.0
size_px = 64

[prior]
n_images = 2

[encoders]
dino = "mini-vit"
clip = "mini-clip"
perceptual = "mini-vit-patches"

[[prompts]]
id = "beach"
family = "recontextualization"
text = "a {subject} on the beach"

[[prompts]]
id = "red"
family = "property"
text = "a red {subject}"
"""

TINY_RECIPE = """
method = "dreambooth"
title = "a few steps"
source = "tests"

[mini]
identifier = "auto"
learning_rate = 1e-4
n_steps = 6
batch_size = 2
train_text_encoder = true
prior_weight = 1.0
n_class_images = 4
weight_decay = 0.01
max_grad_norm = 1.0
class_noun = "correct"
n_photos = 0
gradient_checkpointing = false
"""


@pytest.fixture
def tiny(tmp_path):
    """Paths of a protocol and a recipe that run in seconds."""
    (tmp_path / "tiny.toml").write_text(TINY_PROTOCOL)
    (tmp_path / "quick.toml").write_text(TINY_RECIPE)
    return tmp_path / "tiny.toml", tmp_path / "quick.toml"


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """One cache for the tests that do not test the cache."""
    return tmp_path_factory.mktemp("cache")


def command(*words):
    """The command line as a user would call it, in this environment."""
    return [sys.executable, "-m", "dreambench.cli", *map(str, words)]


def call(*words, **options):
    """Runs the command line to its end and returns the finished process."""
    return subprocess.run(
        command(*words), capture_output=True, text=True, check=False, timeout=400, **options
    )
