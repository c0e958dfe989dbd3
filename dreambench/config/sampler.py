"""Samplers: how a diffusion model's images are sampled, with nothing left to a library's default.

A scheduler file of a base model says which noise the model was trained on, and that stays the base
model's. All else that an image depends on is set here: a file that leaves a field out would get
what diffusers' class has for it, which for `clip_sample` and `set_alpha_to_one` is not what Stable
Diffusion samples with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from dreambench.errors import unknown_name
from dreambench.storage.files import digest

Option = bool | int | str
Precision = Literal["fp32", "bf16"]
"""Of training and generating."""
Quantization = Literal["none", "int8", "nf4"]
"""Of frozen weights: 8 bits, each row by its largest, or QLoRA's 4 bits, 64 weights by theirs."""

SIZE_STEP_PX = 8
"""All pipelines of diffusers here want a side of whole squares of so many pixels."""
FLOW: Final = "flow-euler"
"""Euler's steps along a flow, which models that were trained by flow matching are sampled with; its
shift of times is the base model's own."""
MIN_SIZE_PX, MAX_SIZE_PX = 32, 4096
"""At 32 px Stable Diffusion's latents have 4 x 4 places, which its UNet halves three times."""

# The first value of each is Stable Diffusion's own, which the scheduler files of 1.5, 2.1 and XL
# share (scheduler/scheduler_config.json of stable-diffusion-v1-5/stable-diffusion-v1-5 at 451f4fe,
# stabilityai/stable-diffusion-2-1 at 5cae40e, stabilityai/stable-diffusion-xl-base-1.0 at 4621659).
# What those files do not name has the value of diffusers' class at 0.42.1, fixed here. Diffusers'
# pipelines of Stable Diffusion insist on the one value that `steps_offset` and `clip_sample` have.
_COMMON: dict[str, tuple[Option, ...]] = {
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "steps_offset": (1,),
    "thresholding": (False, True),
}
SCHEDULER_OPTIONS: Mapping[str, Mapping[str, tuple[Option, ...]]] = {
    "ddim": {**_COMMON, "clip_sample": (False,), "set_alpha_to_one": (False, True)},
    "ddpm": {
        **_COMMON, "clip_sample": (False,), "variance_type": ("fixed_small", "fixed_large"),
    },
    "dpm-solver": {
        **_COMMON, "solver_order": (2, 1, 3), "algorithm_type": ("dpmsolver++",),
        "solver_type": ("midpoint", "heun"), "lower_order_final": (True, False),
        "euler_at_final": (False, True), "use_karras_sigmas": (False, True),
        "final_sigmas_type": ("zero", "sigma_min"),
    },
    FLOW: {},
}  # fmt: skip
"""The options of each scheduler under diffusers' names, with the values that each may have."""


class SamplerSettings(BaseModel):
    """The sampler as a protocol has it; the same for every method.

    `size_px` is the side of an image; None is the size that the base model was trained at.
    `options` are those of the scheduler under diffusers' names; what a protocol leaves out has
    Stable Diffusion's own value (`SCHEDULER_OPTIONS`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scheduler: Literal["ddim", "dpm-solver", "ddpm", "flow-euler"] = "ddim"
    n_steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=0, le=1000)
    size_px: int | None = Field(
        default=None, ge=MIN_SIZE_PX, le=MAX_SIZE_PX, multiple_of=SIZE_STEP_PX
    )
    options: dict[str, Option] = Field(default_factory=dict, validate_default=True)

    @field_validator("options")
    @classmethod
    def _complete(cls, options: dict[str, Option], info: ValidationInfo) -> dict[str, Option]:
        known = SCHEDULER_OPTIONS.get(info.data.get("scheduler", ""))
        if known is None:  # The scheduler itself is at fault, which is said.
            return options
        for name, value in options.items():
            if name not in known:
                raise ValueError(str(unknown_name("option of the scheduler", name, known)))
            # True is not 1 here.
            if (type(value), value) not in [(type(choice), choice) for choice in known[name]]:
                choices = ", ".join(json.dumps(choice) for choice in known[name])
                raise ValueError(f"{name} must be one of {choices}")
        return {name: options.get(name, choices[0]) for name, choices in known.items()}

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def at_size(self, size_px: int) -> Sampler:
        """Return the sampler for a base model that was trained at this size."""
        return Sampler(**self.model_dump(exclude_none=True) | {"size_px": self.size_px or size_px})


class Sampler(SamplerSettings):
    """A sampler of which everything is known: what images were really sampled with."""

    size_px: int = Field(ge=8)

    def digest(self) -> str:
        """Return the digest of all that is here."""
        return digest(self.model_dump(mode="json"))
