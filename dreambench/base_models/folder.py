"""What a base model's folder lacks, as far as its files show before any network is loaded."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

from dreambench.errors import UserError, disk_errors
from dreambench.storage.files import read_json
from dreambench.storage.formats import advise, explain_absence, find_weights_damage, recognise

INDEX = "model_index.json"
_WEIGHTS = {
    "diffusers": "diffusion_pytorch_model.safetensors",
    "transformers": "model.safetensors",
}
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))


def check_folder(folder: Path, parts: tuple[str, ...]) -> None:
    """Refuse a folder of a pipeline in which a file of one of `parts` is missing or damaged.

    The sizes of weights are compared with what their heads say; their numbers are not read.

    Raises:
        UserError: `not-a-base-model` for a folder that is not a pipeline of these parts,
            `incomplete-base-model` for a file that is missing or damaged; says which and what to
            do. `unreadable-file` for one that cannot be read.
    """
    with disk_errors(folder, reads=True):
        if not (folder / INDEX).is_file():
            raise _refuse_index(folder)
        index = _read_object(folder / INDEX)
        for part in parts:
            entry = index.get(part)
            if not (isinstance(entry, list) and len(entry) == 2 and all(map(_is_text, entry))):
                raise UserError(
                    f"{folder / INDEX} names no {part}",
                    hint="name the folder of a pipeline of the kind that --base-model says",
                    code="not-a-base-model",
                )
            _check_part(folder / part, *entry)


def check_mark(folder: Path, file: str, key: str, wanted: bool, *, name: str) -> None:
    """Refuse a folder with the weights of another base model of the same family.

    Raises:
        UserError: the file's key has another value; where it is missing it stands for False.
    """
    if bool(_read_object(folder / file).get(key, False)) is not wanted:
        raise UserError(
            f"{folder / file} has {'no ' if wanted else ''}{key}: the weights are not those of "
            f"'{name}'",
            hint="pass the folder under the name of its own base model",
            code="not-a-base-model",
        )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _refuse_index(folder: Path) -> UserError:
    reason = f"has no {INDEX}"
    if not folder.is_dir():
        found = explain_absence(folder)[0]
        reason = "is a file and not a folder" if folder.is_file() else found
    return UserError(
        f"{folder} {reason}",
        hint="name the folder of a diffusers pipeline",
        code="not-a-base-model",
    )


def _check_part(folder: Path, library: str, class_name: str) -> None:
    if not folder.is_dir():
        raise _incomplete(folder, "is missing", "download this folder of the base model, too")
    if class_name.endswith("Scheduler"):
        _check_json(folder / "scheduler_config.json")
    elif "Tokenizer" in class_name:
        names = [path.name for path in folder.iterdir()]
        files = next((files for files in _TOKENIZERS if set(files) <= set(names)), None)
        if files is None:
            needed = " or ".join(" with ".join(files) for files in _TOKENIZERS[:2])
            raise _incomplete(folder, f"has no {needed}", "download this folder again")
        for name in files:
            _check_json(folder / name, is_text=not name.endswith(".json"))
    elif class_name.endswith(("Processor", "FeatureExtractor")):
        found = folder / "processor_config.json"  # So transformers writes it since its version 5.
        _check_json(found if found.exists() else folder / "preprocessor_config.json")
    else:
        _check_json(folder / "config.json")
        if library in _WEIGHTS:
            _check_weights(folder, _WEIGHTS[library])


def _check_json(path: Path, *, is_text: bool = False) -> None:
    if not path.is_file():
        raise _incomplete(path, *_missing(path))
    head = path.read_bytes()[:512]
    found = recognise(head)
    if found is not None and found.kind in ("pointer", "page", "empty"):
        raise _incomplete(path, f"is {found.name}", advise(found))
    if not is_text:
        _read_object(path)


def _missing(path: Path) -> tuple[str, str]:
    reason, hint = explain_absence(path)
    if reason == "is not there":
        reason, hint = "is missing", "download this file of the base model, too"
    return reason, hint


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except UserError as error:
        if error.code != "unreadable-file":
            raise
        raise _incomplete(path, "is not valid JSON", "download it again") from error
    if not isinstance(content, dict):
        raise _incomplete(path, "does not hold a JSON object", "download it again")
    return content


def _check_weights(folder: Path, name: str) -> None:
    """Refuse a network's folder without its weights in fp32, in one file or in shards."""
    shards = folder / f"{name}.index.json"
    files = [name]
    if not (folder / name).exists() and shards.is_file():
        named = _read_object(shards).get("weight_map")
        files = sorted(set(map(str, named.values()))) if isinstance(named, dict) else []
        outside = [file for file in files if Path(file).name != file]
        if not files or outside:
            raise _incomplete(shards, "names no files of this folder", "download it again")
    for file in files:
        path = folder / file
        if not path.is_file() and not path.is_symlink():
            raise _incomplete(path, *_explain_no_weights(folder, path))
        if (damage := find_weights_damage(path)) is not None:
            raise _incomplete(path, *damage)


def _explain_no_weights(folder: Path, path: Path) -> tuple[str, str]:
    """Return what there is in the place of a file of weights, and what to do."""
    names = sorted(found.name for found in folder.iterdir())
    variants = fnmatch.filter(names, f"{path.stem}.*.safetensors")
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if variants:
        return (
            f"is missing, and there is only {variants[0]}",
            f"download {path.name}, or rename {variants[0]} to it to use its rounded weights",
        )
    if pickles:
        return (
            f"is missing, and {pickles[0]} is not read, since such a file can hold code",
            f"download {path.name}, or save the model again with safe_serialization=True",
        )
    others = fnmatch.filter(names, "*.safetensors")
    if others:
        return f"is missing, and there is only {others[0]}", f"rename it to {path.name}"
    return _missing(path)


def _incomplete(path: Path, reason: str, hint: str) -> UserError:
    return UserError(f"{path} {reason}", hint=hint, code="incomplete-base-model")
