"""The training loop's numbers: batches of a step, and the schedule of the learning rate."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from dreambench.errors import UserError
from dreambench.methods.finetuning.training import (
    Batch,
    Checkpoints,
    TrainingSettings,
    pick_rows,
    train,
)
from dreambench.progress import no_progress

N_STEPS = 6
NUMBERS = {
    "learning_rate": 0.1, "n_steps": N_STEPS, "batch_size": 2, "weight_decay": 0.01,
    "max_grad_norm": 1.0, "optimizer": "adamw", "n_photos": 0, "gradient_checkpointing": False,
}  # fmt: skip
IMAGES = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 4, 4)


class ToyModel:
    """Predicts the noise that is added to images, with one layer."""

    def __init__(self):
        torch.manual_seed(0)
        self.network = nn.Conv2d(3, 3, 1)

    def autocast(self):
        return nullcontext()

    def squared_errors(self, latents, text, *, noise):
        eps = torch.randn(latents.shape, generator=noise)
        return (self.network(latents + eps) - eps) ** 2


def make_batch(noise):
    return Batch(IMAGES[pick_rows(5, 4, noise)], None, n_subject=2)


def fit(tmp_path, **numbers):
    """Return the weights that training ends with, the losses, and the learning rates seen."""
    model, rates = ToyModel(), []
    settings = TrainingSettings(**NUMBERS | numbers)
    step = torch.optim.AdamW.step

    def watch(optimizer, *args, **options):
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watch)
        history = train(
            model, settings, modules=[model.network], make_batch=make_batch, prior_weight=0.5,
            subject_name="dog", seed=3, progress=no_progress,
            checkpoints=Checkpoints(tmp_path, (), lambda _: None),
        )  # fmt: skip
    return model.network.weight.detach().clone(), history, rates


@pytest.mark.parametrize("n_batches", [1, 3])
def test_a_step_learns_from_all_its_batches_as_from_one(tmp_path, n_batches):
    weight, history, _ = fit(tmp_path, gradient_accumulation_steps=n_batches, n_steps=2)
    model, noise = ToyModel(), torch.Generator().manual_seed(3)
    optimizer = torch.optim.AdamW(model.network.parameters(), 0.1, weight_decay=0.01)
    for losses in history:
        subject, prior = [], []
        for _ in range(n_batches):
            errors = model.squared_errors(make_batch(noise).latents, None, noise=noise)
            subject.append(errors[:2])
            prior.append(errors[2:])
        means = [torch.cat(rows).mean() for rows in (subject, prior)]
        assert [losses["subject"], losses["prior"]] == pytest.approx([m.item() for m in means])
        (means[0] + 0.5 * means[1]).backward()
        nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weight, model.network.weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("numbers", "shares"),
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"lr_warmup_steps": 2}, [0, 1 / 2, 1, 1, 1, 1]),
        ({"lr_scheduler": "linear"}, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ({"lr_scheduler": "linear", "lr_warmup_steps": 2}, [0, 1 / 2, 1, 3 / 4, 2 / 4, 1 / 4]),
        ({"lr_scheduler": "cosine"}, [1, 0.9330127, 0.75, 0.5, 0.25, 0.0669873]),
    ],
)
def test_the_learning_rate_follows_its_schedule(tmp_path, numbers, shares):
    _, _, rates = fit(tmp_path, **numbers)
    assert rates == pytest.approx([0.1 * share for share in shares])


def test_what_diverges_is_named_by_its_step_not_by_its_batch(tmp_path):
    seen = []

    def make_broken(noise):
        seen.append(1)
        batch = make_batch(noise)
        return Batch(batch.latents * (torch.inf if len(seen) == 9 else 1), None, n_subject=2)

    model = ToyModel()
    settings = TrainingSettings(**NUMBERS | {"gradient_accumulation_steps": 2})
    with pytest.raises(UserError, match="became infinite in step 5"):
        train(
            model, settings, modules=[model.network], make_batch=make_broken, prior_weight=0.0,
            subject_name="dog", seed=3, progress=no_progress,
            checkpoints=Checkpoints(Path(tmp_path), (), lambda _: None),
        )  # fmt: skip
