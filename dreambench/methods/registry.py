"""The table of methods, and how a recipe's method is found, configured and classed.

Shipped methods are in `METHODS`. A room above this one that has a method (mini's `real-images`,
which renders with the world's program) registers it as any installed package does: by an entry
point of the group `dreambench.methods`, in pyproject.toml.
"""

from __future__ import annotations

import importlib

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.config.protocol import Protocol
from dreambench.config.recipe import PluginRecipe, Recipe
from dreambench.config.track import ORACLE, name_track
from dreambench.errors import UserError, unknown_name
from dreambench.methods.base import Context, Method, Settings
from dreambench.plugins import DISTRIBUTION, find_entry_point, list_entry_points

GROUP = "dreambench.methods"
"""Entry point group of packages that have methods: name -> class."""

METHODS = {
    "dreambooth": "dreambench.methods.finetuning.dreambooth:DreamBooth",
    "dreambooth-lora": "dreambench.methods.finetuning.dreambooth_lora:DreamBoothLora",
    "dreambooth-peft": "dreambench.methods.finetuning.dreambooth_peft:DreamBoothPeft",
    "textual-inversion": "dreambench.methods.finetuning.textual_inversion:TextualInversion",
    "custom-diffusion": "dreambench.methods.finetuning.custom_diffusion:CustomDiffusion",
    "ip-adapter": "dreambench.methods.image_prompting.ip_adapter:IPAdapter",
    "photo-prompting": "dreambench.methods.image_prompting.photo_prompting:PhotoPrompting",
    "ominicontrol": "dreambench.methods.image_prompting.ominicontrol:OminiControl",
    "image-variation": "dreambench.methods.image_prompting.image_variation:ImageVariation",
    "composition": "dreambench.methods.editing.composition:Composition",
    "cut-and-paste": "dreambench.methods.editing.composition:CutAndPaste",
    "reconstruction": "dreambench.methods.reconstruction.method:Reconstruction",
    "sdedit": "dreambench.methods.editing.sdedit:SDEdit",
    "inpainting": "dreambench.methods.editing.inpainting:Inpainting",
    "ddim-inversion": "dreambench.methods.editing.ddim_inversion:DDIMInversion",
    "clip-guidance": "dreambench.methods.guidance.clip_guidance:ClipGuidance",
    "class-only": "dreambench.methods.reference.class_only:ClassOnly",
    "copy-reference": "dreambench.methods.reference.copy_reference:CopyReference",
}

MISSING = {
    "blip-diffusion": "diffusers' deprecated class loads, and its Q-Former calls what "
    "transformers 5 no longer has (invert_attention_mask, get_head_mask)",
}
"""Methods of other benchmarks that are not here, and why."""


def list_shipped() -> list[str]:
    """Return the names of the package's own methods: the table's, then its entry points'."""
    own = (
        name
        for name, point in list_entry_points(GROUP).items()
        if point.dist is not None and point.dist.name == DISTRIBUTION
    )
    return [*METHODS, *own]


def find_method(name: str) -> type[Method]:
    """Import and return the class of a shipped method.

    Raises:
        UserError: no shipped method has this name.
    """
    if name not in METHODS:
        known = list_shipped()
        if name not in known:
            raise unknown_name("method", name, known)
        found: type[Method] = find_entry_point(GROUP, name, kind="method").load().value
        return found
    module, _, attribute = METHODS[name].partition(":")
    method: type[Method] = getattr(importlib.import_module(module), attribute)
    return method


def find_class(recipe: Recipe) -> type[Method]:
    """Return the class that a recipe is of.

    Raises:
        UserError: the code of a method from outside is not at hand.
    """
    if not isinstance(recipe, PluginRecipe):
        return find_method(recipe.method)
    if recipe.method_class is None:
        raise UserError(
            f"the code of '{recipe.name}' ({recipe.method}) is not known here",
            hint=f"say where it is: --method path/to/{recipe.method}",
            code="missing-code",
        )
    found: type[Method] = recipe.method_class
    return found


def read_settings(recipe: Recipe, base_model: str) -> Settings:
    """Return a recipe's numbers for a base model.

    Raises:
        UserError: the method does not work with the base model; there are no numbers, or the method
            does not take one of them, by file and line.
    """
    method = find_class(recipe)
    families, known = getattr(method, "families", ()), BASE_MODELS.get(base_model)
    if families and known is not None and known.family not in families:
        fitting = [name for name, model in BASE_MODELS.items() if model.family in families]
        named = [name for name in fitting if name in recipe.tables] or fitting
        raise UserError(
            f"the method '{recipe.method}' does not work with the base model '{base_model}', which "
            f"is of the family {known.family} and not of {', '.join(families)}",
            hint=f"pass --base-model {' or '.join(named)}: see dreambench list base-models",
            code="unsupported-base-model",
        )
    return recipe.read_settings(base_model, method.Settings)


def check_subjects(recipe: Recipe, protocol: Protocol) -> None:
    """Refuse a method that cannot put as many subjects into an image as a protocol asks for.

    Raises:
        UserError: it cannot.
    """
    most = getattr(find_class(recipe), "most_subjects", 1)
    if most < protocol.n_subjects:
        raise UserError(
            f"the method '{recipe.name}' puts one subject into an image, and those of "
            f"'{protocol.name}' show {protocol.n_subjects}",
            hint="dreambench list methods says how many each method takes",
            code="unsupported-protocol",
        )


def make_method(recipe: Recipe, context: Context) -> Method:
    """Return a method with a recipe's numbers, ready for a run; see `read_settings`."""
    return find_class(recipe)(read_settings(recipe, context.base_model.name), context)


def describe_track(recipe: Recipe, base_model: str) -> str:
    """Return what a baseline may use, e.g. "tuned, all photos"; only rows of one track compete."""
    known = recipe if isinstance(recipe, PluginRecipe) else find_method(recipe.method)
    if getattr(known, "is_oracle", False):
        return ORACLE
    settings = recipe.settings_for(base_model)
    return name_track(settings, tunes=known.tunes, n_references=known.n_references)
