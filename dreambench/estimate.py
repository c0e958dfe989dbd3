"""What a run will take, counted before anything starts: images, steps, disk, downloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dreambench.base_models import BaseModel
from dreambench.methods import find_method, read_settings
from dreambench.plan import make_plan
from dreambench.protocol import PRIOR_PROMPT_ID, Protocol
from dreambench.recipe import Recipe
from dreambench.subjects import Subject

# A PNG of a photograph-like picture, in bytes a pixel (measured on Stable Diffusion's at 512 px by
# its users: about 0.4 to 0.5 MB).
PNG_BYTES_PER_PIXEL = 1.8


@dataclass(frozen=True)
class Estimate:
    """Counts for one baseline on one protocol."""

    n_subjects: int
    n_prompts: int
    n_images: int
    n_prior_images: int
    n_class_images: int
    n_optimizer_steps: int
    n_training_images: int
    n_network_calls: int
    image_bytes: int
    weight_bytes: int

    @property
    def n_bytes(self) -> int:
        """Disk that the run folder takes."""
        return self.image_bytes + self.weight_bytes


def make_estimate(
    protocol: Protocol, recipe: Recipe, base_model: BaseModel, subjects: Sequence[Subject]
) -> Estimate:
    """Counts the work of a baseline; reads no photo and loads no network.

    `n_training_images` is the number of noisy images that tuning learns from, `n_network_calls`
    that of evaluations of the denoising network for one image each, guidance counted.
    """
    settings = read_settings(recipe, base_model.name)
    work = find_method(recipe.method).count_work(settings, base_model)
    units = make_plan(protocol, subjects, batch_size=1).images
    n_prior = sum(unit.prompt_id == PRIOR_PROMPT_ID for unit in units)
    n_class = work.class_images * len({subject.class_name for subject in subjects})
    steps = work.optimizer_steps * len(subjects)
    sampler = protocol.sampler
    n_drawn = n_class + (len(units) if work.draws else 0)
    return Estimate(
        n_subjects=len(subjects),
        n_prompts=len({(u.subject, u.prompt_id) for u in units if u.prompt_id != PRIOR_PROMPT_ID}),
        n_images=len(units) - n_prior,
        n_prior_images=n_prior,
        n_class_images=n_class,
        n_optimizer_steps=steps,
        n_training_images=steps * work.images_per_step,
        n_network_calls=n_drawn * sampler.n_calls,
        image_bytes=round((len(units) + n_class) * sampler.size_px**2 * PNG_BYTES_PER_PIXEL),
        weight_bytes=work.saved_bytes * len(subjects),
    )
