"""The folders of UNO: numbered images, each with a JSON file that says what it was made from.

As github.com/bytedance/UNO at d305981 writes them (inference.py), and USO at b6784d7 too.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from dreambench.config.slots import MAX_TEXT_LENGTH
from dreambench.datasets.subjects import name_pair
from dreambench.errors import UserError, name_some
from dreambench.scoring.problems import Problem
from dreambench.scoring.walking import SUFFIXES, File, Walk
from dreambench.storage.text_files import read_text
from dreambench.text import make_printable

MAX_JSON_BYTES = 50_000
_NUMBERED = re.compile(r"(0|[1-9][0-9]{0,8})_(0|[1-9][0-9]{0,8})")

_SETTINGS = (
    "model_type", "width", "height", "num_images_per_prompt", "num_steps", "guidance", "seed",
    "only_lora", "lora_rank", "pe",
)  # fmt: skip
_Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_LENGTH)]


class _Note(BaseModel):
    """What UNO writes about an image, as far as it says which image it is."""

    model_config = ConfigDict(strict=True, extra="allow")

    prompt: _Text
    image_paths: list[_Text]
    concat_refs: bool = False

    def find_subject(self) -> str:
        """Return the name of the folder of its photos, which nobody opens; of a pair for two.

        Raises:
            ValueError: there is no such folder or are more, or the image is not what was generated
                alone.
        """
        paths = [PurePosixPath(path.replace("\\", "/")) for path in self.image_paths if path]
        names = list(dict.fromkeys(path.parent.name for path in paths))
        if self.concat_refs:
            raise ValueError("the photos stand in the image too (concat_refs)")
        if not names or "" in names:
            raise ValueError("image_paths names no photo in a subject's folder")
        if len(names) > 2:
            raise ValueError(f"image_paths has photos of {len(names)} folders: {name_some(names)}")
        return name_pair(names)

    def settings(self) -> dict[str, str]:
        """Return what it says of how its image was made, shortened where it is long."""
        return {key: str((self.model_extra or {}).get(key))[:100] for key in _SETTINGS}


def has_pair(walk: Walk) -> bool:
    """Return whether a folder has an image of that name and its JSON."""
    names = walk.peek(walk.folder)
    return any(_is_image(path) and f"{path.stem}.json" in names for path in map(Path, names))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and _NUMBERED.fullmatch(path.stem) is not None


def _order(path: Path) -> tuple[list[int], str]:
    return [int(number) for number in path.stem.split("_")], path.name


def read_uno(walk: Walk) -> None:
    """Read images by the JSON beside each: the list that UNO was given is not needed.

    Nor would the number of its entry say which that is: USO counts in each process from 0.
    """
    entries = list(walk.entries(walk.folder))
    images = sorted(
        (path for path, is_dir in entries if not is_dir and _is_image(path)), key=_order
    )
    own = {*images, *(path.with_suffix(".json") for path in images)}
    walk.n_ignored += sum(path not in own for path, _ in entries)
    notes = [note for path in images if (note := _add_with_note(walk, path)) is not None]
    differing = {key for note in notes for key in _SETTINGS if note.get(key) != notes[0].get(key)}
    if differing:
        keys = ", ".join(key for key in _SETTINGS if key in differing)
        walk.notes.append(f"the images differ in {keys}, as those of more than one run do")


def _add_with_note(walk: Walk, path: Path) -> dict[str, str] | None:
    """Add an image as the JSON beside it says, and return its settings; None where it is none."""
    note_path = path.with_suffix(".json")
    if not walk.is_inside(note_path):  # As `entries` has noted.
        return None
    try:
        note = _Note.model_validate_json(read_text(note_path, max_bytes=MAX_JSON_BYTES))
        subject = note.find_subject()
    except UserError as error:
        detail = error.problem.replace(str(note_path), walk.name(note_path))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"])) or "as a whole"
        detail = f"{walk.name(note_path)}, {where}: {fault['msg']}"
    except ValueError as error:
        detail = f"{walk.name(note_path)}: {error}"
    else:
        entry, label = path.stem.split("_")
        walk.files.append(File(walk.name(path), path, subject, note.prompt, label, entry))
        return note.settings()
    walk.problems.append(Problem("unknown", walk.name(path), detail=make_printable(detail)))
    return None
