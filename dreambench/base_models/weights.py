"""Refuses files that do not hold exactly the weights of a network.

The libraries fill in random numbers for what is missing and leave out what is unknown, with a
warning at most: such a network runs, and its numbers mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dreambench.errors import UserError, name_some

PLACES = r".*position_ids"
"""Old files of CLIP hold its position numbers, which are not weights."""
CONVERT = "download or convert the folder again; names of weights have to be diffusers'"


def check_loading(
    found: Mapping[str, Any], *, where: str, part: str, hint: str = CONVERT, harmless: str = PLACES
) -> None:
    """Refuse a network by what `from_pretrained(output_loading_info=True)` says of its loading.

    `harmless` is a regular expression of names that may be there besides.

    Raises:
        UserError: weights are missing, of another shape, or no weights of this network.
    """
    _refuse(
        map(str, found["missing_keys"]),
        (str(key[0]) for key in found["mismatched_keys"]),
        map(str, found["unexpected_keys"]),
        where=where, part=part, hint=hint, harmless=harmless,
    )  # fmt: skip


def check_state(
    own: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    *,
    where: str,
    part: str,
    hint: str = CONVERT,
    harmless: str = PLACES,
) -> None:
    """Refuse weights `found` that are not those of a network, `own`, by name and shape.

    Raises:
        UserError: as `check_loading` does.
    """
    _refuse(
        (key for key in own if key not in found),
        (key for key in own if key in found and found[key].shape != own[key].shape),
        (key for key in found if key not in own),
        where=where, part=part, hint=hint, harmless=harmless,
    )  # fmt: skip


def _refuse(
    missing: Iterable[str],
    misshapen: Iterable[str],
    unknown: Iterable[str],
    *,
    where: str,
    part: str,
    hint: str,
    harmless: str,
) -> None:
    names = {
        "missing": sorted(missing),
        "of another shape": sorted(misshapen),
        "not its own": sorted(key for key in unknown if not re.fullmatch(harmless, key)),
    }
    wrong = [f"{len(keys)} {what} ({name_some(keys)})" for what, keys in names.items() if keys]
    if wrong:
        raise UserError(
            f"{where}: the weights of {part} are not whole: {'; '.join(wrong)}",
            hint=hint,
            code="wrong-weights",
        )


def load_trained(file: Path, own: Mapping[str, Tensor], *, part: str) -> dict[str, Tensor]:
    """Read what a method saved of `part` when it was trained: tensors of its own names and shapes.

    Raises:
        UserError: the file is damaged, or does not hold exactly these.
    """
    state = read_trained(file)
    check_state(own, state, where=str(file), part=part, hint=_train_again(file), harmless="")
    return state


def read_trained(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file of a run.

    Raises:
        UserError: it is not there, or damaged.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} cannot be read as weights ({error})",
            hint=_train_again(file),
            code="wrong-weights",
        ) from error


def _train_again(file: Path) -> str:
    return f"delete {file.parent} and run again, which trains this subject again"
