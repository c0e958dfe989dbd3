"""Trains the encoders of `mini`.

    python -m dreambench.mini.training.encoders vit    --data DIR --out DIR
    python -m dreambench.mini.training.encoders clip   --data DIR --out DIR --tokenizer DIR
    python -m dreambench.mini.training.encoders clip-2 --data DIR --out DIR --tokenizer DIR

`vit` plays DINO's part. It is not trained by self-distillation: it sees two pictures of one
subject (other place, other view) and has to find the pair among others of the same few classes
(InfoNCE on the class token). `clip` is trained on pictures and captions as CLIP is, with harder
counterexamples: most batches come from two places only, and each picture also has to pick its class
among captions that differ in the class noun alone. With batches from everywhere the place nearly
tells the captions apart, and the classes are hardly learned. `clip-2` is a smaller CLIP from other
random numbers, which scores what `clip` has steered.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from dreambench.mini.training.autoencoder import to_pixels
from dreambench.mini.training.data import SHOTS_PER_IDENTITY, WorldSet
from dreambench.mini.training.loop import train
from dreambench.mini.world.bodies import CLASSES

VIT_ARCHITECTURE = "vit_tiny_patch16_224"
VIT_ARGUMENTS: dict[str, Any] = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 192,
    "depth": 6,
    "num_heads": 6,
}
CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 192,
    # A convolution net: on this few pictures a ViT learns the places at once and the classes
    # (shapes) hardly at all.
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 24},
    "text_cfg": {
        "context_length": 32, "vocab_size": 1443, "width": 128, "heads": 4, "layers": 3,
        "hf_tokenizer_name": "./",
    },
}  # fmt: skip
CLIP_2_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 16},
    "text_cfg": {**CLIP_CONFIG["text_cfg"], "width": 96, "layers": 2},
}
MEAN = STD = (0.5, 0.5, 0.5)
N_CLASSES_PER_BATCH = 4
P_TWO_PLACES = 0.75


def make_vit() -> nn.Module:
    """The untrained ViT."""
    return timm.create_model(VIT_ARCHITECTURE, num_classes=0, **VIT_ARGUMENTS)


def make_clip(config: dict[str, Any]) -> open_clip.CLIP:
    """The untrained CLIP."""
    text = {k: v for k, v in config["text_cfg"].items() if k != "hf_tokenizer_name"}
    return open_clip.CLIP(config["embed_dim"], config["vision_cfg"], text)


def augment(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirrors half of the pictures, and softens or roughens some as generators do; [-1, 1]."""
    flips = torch.from_numpy(rng.uniform(size=len(pixels)) < 0.5)
    return roughen(torch.where(flips[:, None, None, None], pixels.flip(-1), pixels), rng)


def roughen(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Softens a quarter of the pictures and adds noise to a quarter; [-1, 1]."""
    soft = torch.from_numpy(rng.uniform(size=len(pixels)) < 0.25)[:, None, None, None]
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), "replicate"), 3, stride=1)
    pixels = torch.where(soft, blurred, pixels)
    strength = np.where(rng.uniform(size=len(pixels)) < 0.25, rng.uniform(0, 0.15), 0.0)
    noise = torch.from_numpy(rng.normal(size=tuple(pixels.shape)).astype(np.float32))
    return pixels + noise * torch.from_numpy(strength.astype(np.float32))[:, None, None, None]


def train_vit(
    model: nn.Module, data: WorldSet, out_dir: Path, *, n_steps: int, batch_size: int
) -> None:
    """Trains and writes a folder that `timm.create_model("local-dir:...")` loads."""
    # Pictures in which the subject cannot look like itself are not views of it.
    kept = np.array(
        [
            shot.property_name in (None, "shiny") and shot.style not in ("pencil-sketch", "marble")
            for shot in data.shots
        ]
    ).reshape(-1, SHOTS_PER_IDENTITY)
    usable = np.flatnonzero(kept.sum(1) >= 2)
    by_class = [usable[usable % len(CLASSES) == c] for c in range(len(CLASSES))]
    n_pairs = batch_size // 2

    def compute_loss(
        rng: np.random.Generator, noise: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        classes = rng.choice(len(CLASSES), N_CLASSES_PER_BATCH, replace=False)
        chosen = np.concatenate(
            [
                rng.choice(by_class[c], n_pairs // N_CLASSES_PER_BATCH, replace=False)
                for c in classes
            ]
        )
        views = np.stack(
            [
                rng.choice(np.flatnonzero(kept[i]), 2, replace=False) + i * SHOTS_PER_IDENTITY
                for i in chosen
            ]
        )
        pixels = augment(to_pixels(data.images[views.T.ravel()]), rng)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = model(pixels)
        first, second = F.normalize(tokens.float(), dim=-1).chunk(2)
        both = torch.cat([first, second])
        logits = both @ both.T / 0.1
        logits.fill_diagonal_(-1e4)
        target = torch.cat([torch.arange(n_pairs) + n_pairs, torch.arange(n_pairs)])
        loss = F.cross_entropy(logits, target)
        hits = (logits.argmax(-1) == target).float().mean()
        return loss, {"top1": float(hits)}

    train(
        model, compute_loss, out_dir=out_dir, seed=2, n_steps=n_steps, learning_rate=1e-3,
        weight_decay=0.05, betas=(0.9, 0.98), checkpoint_every=200, log_every=50,
    )  # fmt: skip
    write_vit(model, out_dir / "vit")


def write_vit(model: nn.Module, folder: Path) -> None:
    """Writes the folder that timm loads, weights in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    save_half(model, folder / "model.safetensors")
    config = {
        "architecture": VIT_ARCHITECTURE,
        "num_classes": 0,
        "num_features": VIT_ARGUMENTS["embed_dim"],
        "global_pool": "token",
        "model_args": VIT_ARGUMENTS,
        "pretrained_cfg": {
            "tag": "two-view", "custom_load": False, "input_size": [3, 64, 64],
            "fixed_input_size": True, "interpolation": "bicubic", "crop_pct": 1.0,
            "mean": MEAN, "std": STD, "num_classes": 0, "pool_size": None,
            "first_conv": "patch_embed.proj", "classifier": "head",
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _contrast(logits: Tensor, texts: list[str]) -> tuple[Tensor, float]:
    """Return CLIP's loss for n pictures (rows) and their texts, and the share of texts found."""
    # Two pictures may deserve the same words; neither is then the other's counterexample.
    same = torch.tensor([[a == b for b in texts] for a in texts])
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, -1e4)
    target = torch.arange(len(texts))
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    return loss, float((logits.argmax(-1) == target).float().mean())


def train_clip(
    model: open_clip.CLIP,
    data: WorldSet,
    out_dir: Path,
    tokenizer: CLIPTokenizer,
    config: dict[str, Any],
    *,
    seed: int,
    rounds_text: bool,
    n_steps: int,
    batch_size: int,
) -> None:
    """Trains and writes a folder that `open_clip.create_model("local-dir:...")` loads."""
    model = model.to(memory_format=torch.channels_last)
    places = np.array([str(shot.scene) for shot in data.shots])
    by_place = [np.flatnonzero(places == place) for place in np.unique(places)]
    names = list(CLASSES)
    classes = torch.tensor([names.index(shot.identity.class_name) for shot in data.shots])

    def tokenize(texts: list[str]) -> Tensor:
        return tokenizer(
            texts, padding="max_length", max_length=config["text_cfg"]["context_length"],
            truncation=True, return_tensors="pt",
        ).input_ids  # fmt: skip

    def compute_loss(
        rng: np.random.Generator, noise: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        if rng.uniform() < P_TWO_PLACES:
            two = rng.choice(len(by_place), 2, replace=False)
            rows = np.concatenate(
                [rng.choice(by_place[place], batch_size // 2, replace=False) for place in two]
            )
        else:
            rows = rng.choice(len(data), batch_size, replace=False)
        texts = [data.caption(row, rng) for row in rows]
        tokens = tokenize(texts)
        nouns = tokenize([f"a {name}" for name in CLASSES])
        pixels = augment(to_pixels(data.images[rows]), rng)
        image = model.encode_image(pixels.to(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16, enabled=rounds_text):
            text = model.encode_text(torch.cat([tokens, nouns]))
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        text, noun = text[: len(tokens)], text[len(tokens) :]
        scale = model.logit_scale.exp().clamp(max=50)
        loss, top1 = _contrast(scale * image @ text.T, texts)
        by_noun = scale * image @ noun.T
        loss = loss + F.cross_entropy(by_noun, classes[rows])
        return loss, {
            "top1": top1,
            "class_top1": float((by_noun.argmax(-1) == classes[rows]).float().mean()),
            "scale": float(scale.detach()),
        }

    train(
        model, compute_loss, out_dir=out_dir, seed=seed, n_steps=n_steps, learning_rate=1e-3,
        weight_decay=0.05, betas=(0.9, 0.98), checkpoint_every=200, log_every=50,
    )  # fmt: skip
    write_clip(model, tokenizer, config, out_dir / "clip")


def write_clip(
    model: nn.Module, tokenizer: CLIPTokenizer, config: dict[str, Any], folder: Path
) -> None:
    """Writes the folder that open_clip loads, weights in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    save_half(model, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)
    preprocess = {
        "size": 64, "mode": "RGB", "mean": MEAN, "std": STD, "interpolation": "bicubic",
        "resize_mode": "shortest",
    }  # fmt: skip
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2)
    (folder / "open_clip_config.json").write_text(text + "\n")


def save_half(model: nn.Module, path: Path) -> None:
    """Writes the weights in fp16; the loaders compute in fp32 again."""
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value.contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(state, path, metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoder", choices=("vit", "clip", "clip-2"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, help="folder of the tokenizer, for a CLIP")
    parser.add_argument("--start", type=Path, help="folder of trained weights to go on from")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()
    data = WorldSet(args.data / "train")
    is_second = args.encoder == "clip-2"
    torch.manual_seed(8 if is_second else 0)
    sizes = {"n_steps": args.steps, "batch_size": args.batch_size}
    if args.encoder == "vit":
        vit = make_vit()
        if args.start:
            vit.load_state_dict(load_file(args.start / "model.safetensors"))
        train_vit(vit, data, args.out, **sizes)
    else:
        config = CLIP_2_CONFIG if is_second else CLIP_CONFIG
        clip = make_clip(config)
        if args.start:
            clip.load_state_dict(load_file(args.start / "open_clip_model.safetensors"))
        tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
        # On a CPU without instructions for bf16 a rounded text tower takes seven times as long.
        train_clip(
            clip, data, args.out, tokenizer, config, seed=8 if is_second else 3,
            rounds_text=not is_second, **sizes,
        )  # fmt: skip


if __name__ == "__main__":
    main()
