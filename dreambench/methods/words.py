"""Words that a method puts into prompts: which of them do little good, and what grows too long."""

from __future__ import annotations

from collections.abc import Sequence

from dreambench.artifacts.long_texts import CutText, find_cut_texts
from dreambench.artifacts.plan import ImageUnit
from dreambench.base_models.registry import make_text_reader
from dreambench.base_models.spec import BaseModel
from dreambench.config.recipe import Recipe
from dreambench.datasets.subjects import Subject
from dreambench.methods.plugins import check_recipe
from dreambench.methods.registry import find_class, read_settings


def find_drawn_cuts(
    recipe: Recipe, base_model: BaseModel, subjects: Sequence[Subject], units: Sequence[ImageUnit]
) -> list[CutText]:
    """Return the prompts that are longer than a base model's text encoder reads.

    None for a method that does not generate with the base model.

    Raises:
        UserError: what `check_recipe` raises.
    """
    if not check_recipe(recipe, base_model).samples:
        return []
    settings, method = read_settings(recipe, base_model.name), find_class(recipe)
    words = {
        subject.name: tuple(method.name_subject(settings, one) for one in subject.each)
        for subject in subjects
    }
    texts = [(unit.subject, unit.prompt_id, unit.prompt) for unit in units]
    return find_cut_texts(make_text_reader(base_model), texts, words)


def note_identifier(
    recipe: Recipe, base_model: BaseModel, subjects: Sequence[Subject]
) -> list[str]:
    """Return what makes the identifier of a recipe a poor one, a line each."""
    identifier = getattr(read_settings(recipe, base_model.name), "identifier", "auto")
    if not isinstance(identifier, str) or identifier == "auto":
        return []
    notes = []
    word = identifier.lower()
    if nouns := sorted({noun for s in subjects for noun in s.nouns if noun.lower() == word}):
        notes.append(
            f"the identifier '{identifier}' is the class noun '{nouns[0]}': training on one will "
            "change the other"
        )
    if identifier != word and base_model.flow is None:
        notes.append(f"CLIP's text encoders read no capitals: '{identifier}' is '{word}' to them")
    reader = make_text_reader(base_model)
    if reader is not None and (n_tokens := reader.count(identifier) - reader.count("")) > 1:
        notes.append(
            f"the identifier '{identifier}' is {n_tokens} tokens, and the paper's is one rare one: "
            f"see dreambench tokens --base-model {base_model.name}"
        )
    return notes
