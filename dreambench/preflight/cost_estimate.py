"""What a run will take, counted before anything starts: images, steps, disk, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dreambench.artifacts.plan import make_plan
from dreambench.base_models.spec import BaseModel
from dreambench.config.protocol import PRIOR_PROMPT_ID, Protocol
from dreambench.config.recipe import Recipe
from dreambench.config.sampler import Precision
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Settings, Work
from dreambench.methods.registry import find_class, read_settings

# A PNG of a photograph-like picture, in bytes a pixel (measured on Stable Diffusion's at 512 px by
# its users: about 0.4 to 0.5 MB).
PNG_BYTES_PER_PIXEL = 1.8


@dataclass(frozen=True)
class Estimate:
    """Counts for one baseline on one protocol.

    `memory_bytes` are those of the device at the peak (`estimate_memory`), of which
    `offloaded_bytes` wait on the CPU where the device has no room for them; `downloads` are weights
    of the method's own that are not on this machine, with their bytes. `is_counted` is false for a
    method that computes with other networks alone, whose calls are not counted.
    """

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
    memory_bytes: int
    offloaded_bytes: int
    downloads: dict[str, int]
    is_counted: bool

    @property
    def n_bytes(self) -> int:
        """Disk that the run folder takes."""
        return self.image_bytes + self.weight_bytes


def make_estimate(
    protocol: Protocol,
    recipe: Recipe,
    base_model: BaseModel,
    subjects: Sequence[Subject],
    *,
    precision: Precision = "fp32",
    replicates: int = 1,
    is_checkpoint: bool = False,
) -> Estimate:
    """Counts the work of a baseline, and what it lacks; reads no photo and loads no network.

    All `replicates` of a method that trains are counted; a checkpoint of another recipe's training
    is not trained itself. `n_training_images` is the number of noisy images that training learns
    from, `n_network_calls` that of evaluations of the denoising network for one image each,
    guidance counted.
    """
    settings = read_settings(recipe, base_model.name)
    work = find_class(recipe).count_work(settings, base_model)
    # A step learns from a batch of each subject of a pair.
    work = replace(work, images_per_step=work.images_per_step * protocol.n_subjects)
    memory = least = 0
    sampler = base_model.choose_sampler(protocol.sampler)
    if work.uses_base_model or work.other_parameters:
        memory, least = (
            estimate_memory(
                settings, work, base_model, size_px=sampler.size_px, precision=precision,
                offloads=offloads,
            )
            for offloads in (False, True)
        )  # fmt: skip
    n_runs = replicates if find_class(recipe).tunes else 1
    if is_checkpoint:
        work = replace(work, optimizer_steps=0, class_images=0, second_steps=0, second_images=0)
    units = make_plan(protocol, subjects, batch_size=1).images
    n_prior = sum(unit.prompt_id == PRIOR_PROMPT_ID for unit in units)
    n_class = work.class_images * len({noun for subject in subjects for noun in subject.nouns})
    n_trainings = len(subjects) * n_runs
    # Class images are sampled plainly whatever the method does for its subject.
    n_drawn = n_prior + (len(units) - n_prior) * work.calls_per_image
    n_drawn = n_class + work.samples * n_drawn * n_runs
    return Estimate(
        n_subjects=len(subjects),
        n_prompts=len({(u.subject, u.prompt_id) for u in units if u.prompt_id != PRIOR_PROMPT_ID}),
        n_images=(len(units) - n_prior) * n_runs,
        n_prior_images=n_prior * n_runs,
        n_class_images=n_class,
        n_optimizer_steps=(work.optimizer_steps + work.second_steps) * n_trainings,
        n_training_images=work.training_images * n_trainings,
        n_network_calls=round(n_drawn * base_model.count_calls(sampler)),
        image_bytes=round(
            (len(units) * n_runs + n_class) * sampler.size_px**2 * PNG_BYTES_PER_PIXEL
        ),
        weight_bytes=work.saved_bytes * len(subjects) * n_runs,
        memory_bytes=memory,
        offloaded_bytes=memory - least,
        downloads={k: n for one in work.weights for k, n in one.find_missing().items()},
        is_counted=work.uses_base_model or not work.other_parameters,
    )


# Of the activations in fp32, what autocast keeps: norms compute in fp32 (up to .67 of them, by
# `benchmarks/full_size.py --fake`).
AUTOCAST_SHARE = 0.7
# The autoencoder's last layers, which take the most memory of all generating; by the same count.
DECODING_BYTES_PER_PIXEL = 3_100
# What a transformer holds of a pixel of the image and of photos beside it; counted on FLUX.2
# [klein], which takes the most.
DENOISING_BYTES_PER_PIXEL = 1_200
# Libraries, CUDA's context, and what an allocator rounds up.
RUNTIME_BYTES, SLACK = 1_000_000_000, 1.05


# Of a quantised weight, with the fp32 scale that 64 weights of 4 bits share; that of 8 bits is a
# whole row's.
QUANTIZED_BYTES: Mapping[str, float] = {"int8": 1, "nf4": 0.5 + 4 / 64}


def estimate_memory(
    settings: Settings,
    work: Work,
    base_model: BaseModel,
    *,
    size_px: int,
    precision: Precision,
    offloads: bool = False,
) -> int:
    """Bytes of memory that training needs at its peak, or generating an image if that is more.

    Weights, gradients and optimizer state of what is trained in fp32, and the activations of one
    step as they were counted for the base model (`benchmarks/full_size.py --count`; it measures the
    whole of it for Stable Diffusion 1.5 as well). In bf16 all weights but those of diffusion's text
    encoders are held in it, and what is trained in both. Quantised are those of the denoising
    network, nearly all of which are linear layers'. With `offloads`, large text encoders wait on
    the CPU.
    """
    if not work.uses_base_model:
        # Such networks stay in fp32; what a step keeps is not counted.
        return round(4 * work.other_parameters * SLACK + RUNTIME_BYTES)
    n_weights = (
        base_model.n_denoiser_parameters + base_model.n_other_parameters + work.other_parameters
    )
    weights, master = 4 * n_weights, 0
    if precision == "bf16":
        has_t5 = base_model.flow is not None or base_model.upscaler is not None
        n_wide = 0 if has_t5 else base_model.n_text_parameters
        weights, master = 2 * (n_weights + n_wide), 4
    if offloads:
        weights -= (4 if precision == "fp32" else 2) * base_model.n_offloaded_parameters
    if (quantization := getattr(settings, "quantization", "none")) != "none":
        wide = 2 if precision == "bf16" else 4
        weights += round((QUANTIZED_BYTES[quantization] - wide) * base_model.n_denoiser_parameters)
        # One layer at a time is made wide.
        sizes = [n_in * n_out for n_in, n_out, _ in base_model.adapted_shapes]
        weights += wide * max(sizes, default=0)
    state = 0
    if work.trained_parameters:
        optimizer = 2 if getattr(settings, "optimizer", "adamw") == "adamw-8bit" else 8
        state = work.trained_parameters * (master + 4 + optimizer)
    per_image = base_model.activation_bytes
    if getattr(settings, "gradient_checkpointing", False):
        per_image = base_model.checkpointed_bytes
    n_images = work.images_per_step / getattr(settings, "gradient_accumulation_steps", 1)
    activations = n_images * per_image * (size_px / base_model.size_px) ** 2
    if precision == "bf16":
        activations *= AUTOCAST_SHARE
    tuning = state + activations + work.kept_bytes
    drawing = 0
    if work.samples:
        shown = [size_px**2, *work.photo_pixels]
        # Encoding a photo takes less than decoding an image of its size.
        drawing = DECODING_BYTES_PER_PIXEL * max(shown)
        if work.photo_pixels:
            drawing = max(drawing, DENOISING_BYTES_PER_PIXEL * sum(shown))
    return round((weights + max(tuning, drawing)) * SLACK + RUNTIME_BYTES)
