"""What the tests share: no network, a tiny protocol and recipe, the command line as a process."""

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Set before any library of the hub is imported: no test touches the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import numpy as np
import pytest

from dreambench.base_models import BASE_MODELS
from dreambench.methods import Context
from dreambench.protocol import Sampler
from dreambench.subjects import find_dataset, load_subjects

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
segmenter = "mini-segmenter"

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
optimizer = "adamw"
class_noun = "correct"
n_photos = 0
gradient_checkpointing = false
"""


class Server:
    """A local HTTP server that can cut connections; counts what it was asked and what it sent."""

    def __init__(self):
        self.files, self.cut_after, self.asked, self.n_sent = {}, [], [], 0
        self.ranges = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.headers.get("Range"))
                content = outer.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                tag, start = f'"{hashlib.sha256(content).hexdigest()}"', 0
                asked = self.headers.get("Range")
                if outer.ranges and asked and self.headers.get("If-Range") == tag:
                    start = int(asked.removeprefix("bytes=").rstrip("-"))
                    self.send_response(206)
                    total = len(content)
                    self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
                else:
                    self.send_response(200)
                self.send_header("ETag", tag)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                body = content[start:]
                if outer.cut_after:
                    body = body[: outer.cut_after.pop(0)]
                self.wfile.write(body)
                outer.n_sent += len(body)

            def log_message(self, *words):
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server():
    """A running server."""
    running = Server()
    yield running
    running.server.shutdown()
    running.server.server_close()


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


SAMPLER = Sampler(scheduler="ddim", n_steps=4, guidance_scale=3.0, size_px=64)
NUMBERS = {
    "identifier": "auto", "learning_rate": 2e-4, "n_steps": 4, "batch_size": 2,
    "train_text_encoder": False, "prior_weight": 1.0, "n_class_images": 4,
    "weight_decay": 0.01, "max_grad_norm": 1.0, "optimizer": "adamw",
    "class_noun": "correct", "n_photos": 0, "gradient_checkpointing": False,
}  # fmt: skip
PROMPTS = ["a {subject} on the beach", "a {subject}", "a red {subject}"]


class Heard:
    """A progress display that remembers."""

    def __init__(self):
        self.calls = []

    def __call__(self, what, done, total):
        self.calls.append((what, done, total))


def context(cache_dir, *, base_model=BASE_MODELS["mini"], batch_size=4, progress=None):
    return Context(
        base_model=base_model, sampler=SAMPLER, device="cpu", precision="fp32",
        batch_size=batch_size, cache_dir=cache_dir, progress=progress or Heard(),
    )  # fmt: skip


def subjects(*names):
    found = {s.name: s for s in load_subjects(find_dataset("mini"), names=names)}
    return [found[name] for name in names]


def pixels(images):
    return np.stack([np.asarray(image) for image in images])


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory):
    """A random pipeline of other sizes: 4 latent channels, two levels, epsilon prediction."""
    import torch  # noqa: PLC0415  (slow imports, which few test files need)
    from diffusers import (  # noqa: PLC0415
        AutoencoderKL,
        PNDMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # noqa: PLC0415

    torch.manual_seed(3)
    tokenizer = CLIPTokenizer.from_pretrained(BASE_MODELS["mini"].location, subfolder="tokenizer")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=37, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, sample_size=64,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=32, in_channels=4, out_channels=4, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), layers_per_block=1,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=4,
            attention_head_dim=2, cross_attention_dim=32,
        ),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
            skip_prk_steps=True, set_alpha_to_one=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("other") / "pipeline"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory):
    """A random pipeline of SDXL's shape: two text encoders, pooled text and sizes to the UNet."""
    import torch  # noqa: PLC0415
    from diffusers import (  # noqa: PLC0415
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import (  # noqa: PLC0415
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    torch.manual_seed(4)
    tokenizer = CLIPTokenizer.from_pretrained(BASE_MODELS["mini"].location, subfolder="tokenizer")

    def text_config(width, **extra):
        return CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=37,
            num_hidden_layers=2, num_attention_heads=4, projection_dim=24,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, **extra,
        )  # fmt: skip

    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, sample_size=64,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        text_encoder=CLIPTextModel(text_config(32)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(16, hidden_act="gelu")),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=32, in_channels=4, out_channels=4, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), layers_per_block=1,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=4,
            attention_head_dim=(2, 4), cross_attention_dim=48, use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8, transformer_layers_per_block=(1, 2),
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("xl") / "pipeline"
    pipeline.save_pretrained(folder)
    return folder


def command(*words):
    """The command line as a user would call it, in this environment."""
    return [sys.executable, "-m", "dreambench.cli", *map(str, words)]


def call(*words, **options):
    """Runs the command line to its end and returns the finished process."""
    return subprocess.run(
        command(*words), capture_output=True, text=True, check=False, timeout=400, **options
    )
