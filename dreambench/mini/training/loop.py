"""The one training loop that all of mini's models share: AdamW, EMA, checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

Loss = Callable[[np.random.Generator, torch.Generator], tuple[Tensor, dict[str, float]]]


def follow_cosine(step: int, n_steps: int) -> float:
    """The share of the learning rate at a step: half a cosine, down to a fiftieth."""
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / n_steps))


def hold_then_fall(step: int, n_steps: int) -> float:
    """The share of the learning rate at a step: all of it, and a straight line in the last tenth.

    Before that a step does not depend on the length of the run, which can be chosen late.
    """
    return min(1.0, 10 * (n_steps - step) / n_steps)


def train(
    model: nn.Module,
    compute_loss: Loss,
    *,
    out_dir: Path,
    seed: int,
    n_steps: int,
    learning_rate: float,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.99),
    ema_decay: float = 0.999,
    n_warmup_steps: int = 200,
    schedule: Callable[[int, int], float] = follow_cosine,
    checkpoint_every: int = 500,
    log_every: int = 100,
    n_seconds: float = math.inf,
    show: Callable[[int], None] | None = None,
    show_every: int = 1000,
) -> None:
    """Trains `model` in place and leaves the averaged weights in it.

    Step i samples from generators seeded by (seed, i), so that a killed run resumes from
    `out_dir/checkpoint.pt` as if it had never stopped. After `n_seconds` it stops by itself in the
    same way. The log is `out_dir/log.jsonl`. `show` is called with the number of steps while the
    averaged weights are in the model.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(
        model.parameters(), learning_rate, betas=betas, weight_decay=weight_decay, fused=True
    )
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    path, first = out_dir / "checkpoint.pt", 0
    if path.exists():
        average, first = _resume(path, model, optimizer)
    model.train()
    sums: dict[str, list[float]] = {}
    started = time.monotonic()
    for step in range(first, n_steps):
        rate = learning_rate * min(1.0, (step + 1) / n_warmup_steps) * schedule(step, n_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, number in _step(model, optimizer, compute_loss, seed, step).items():
            sums.setdefault(name, []).append(number)
        _follow(average, model, decay=min(ema_decay, (1 + step) / (10 + step)))
        seconds = time.monotonic() - started
        if (step + 1) % log_every == 0:
            _log(out_dir / "log.jsonl", sums, step=step + 1, seconds=round(seconds, 1))
            sums = {}
        is_last = step + 1 == n_steps or seconds > n_seconds
        if (step + 1) % checkpoint_every == 0 or is_last:
            _save(path, model, optimizer, average, step + 1)
        if is_last:
            break
        if show is not None and (step + 1) % show_every == 0:
            latest = {name: value.clone() for name, value in model.state_dict().items()}
            model.load_state_dict(average)
            show(step + 1)
            model.load_state_dict(latest)
    model.load_state_dict(average)
    model.eval()


def _log(path: Path, sums: dict[str, list[float]], **more: float) -> None:
    row = {name: float(np.mean(values)) for name, values in sums.items()}
    with path.open("a") as log:
        log.write(json.dumps(row | more) + "\n")


def _resume(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], int]:
    """Load a checkpoint; return the averaged weights and the number of steps that it is after."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["average"], state["step"]


def _save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor],
    step: int,
) -> None:  # fmt: skip
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average,
        "step": step,
    }
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, compute_loss: Loss, seed: int, step: int
) -> dict[str, float]:
    """Take one step; return the loss and its parts."""
    loss, parts = compute_loss(
        np.random.default_rng([seed, step]), torch.Generator().manual_seed(seed * 10**7 + step)
    )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return {"loss": float(loss.detach()), **parts}


@torch.no_grad()
def _follow(average: dict[str, Tensor], model: nn.Module, *, decay: float) -> None:
    for name, value in model.state_dict().items():
        if value.dtype.is_floating_point:
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)
