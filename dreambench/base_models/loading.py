"""From files to networks: each by itself, whole, and said in one line where it is not."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambench.base_models.folder import check_folder
from dreambench.base_models.spec import PARTS, BaseModel
from dreambench.base_models.weights import check_loading
from dreambench.errors import UserError, raise_if_disk


def load_networks(
    model: BaseModel,
    options: Mapping[str, Any],
    *,
    names: Collection[str] | None = None,
    rounded: Collection[str] = (),
) -> dict[str, nn.Module]:
    """Load the networks that a pipeline's index names, but for those that `options` leave out.

    In fp32, or in bf16 those that `rounded` names; `names` are those that are wanted, None for all.

    Each by itself, since a pipeline does not tell what its files lack: a network without some of
    its weights would run on random ones.

    Raises:
        OSError, ValueError: files cannot be had, or are not valid.
        UserError: a network's files lack weights, or have others than its own.
    """
    import diffusers  # noqa: PLC0415  (slow import)

    common = {
        key: options[key] for key in ("dtype", "use_safetensors", "revision") if key in options
    }
    index = diffusers.DiffusionPipeline.load_config(
        model.location, revision=options.get("revision")
    )
    networks: dict[str, nn.Module] = {}
    for name, entry in index.items():
        if name.startswith("_") or name in options or not isinstance(entry, list | tuple):
            continue
        if names is not None and name not in names:
            continue
        library, class_name = entry
        # Small networks of one pipeline stand under its name.
        home = getattr(diffusers.pipelines, library, None)
        if library in ("diffusers", "transformers"):
            home = importlib.import_module(library)
        kind = getattr(home, class_name, None)
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            continue
        where = f"{model.location}/{name}"
        wanted = {**common, "dtype": torch.bfloat16} if name in rounded else common
        try:
            # They warn of what is refused below.
            with only_errors():
                network, found = kind.from_pretrained(  # type: ignore[attr-defined]
                    model.location, subfolder=name, output_loading_info=True, **wanted
                )
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{where}: the weights are not those of a {class_name}",
                hint="download or convert the folder again",
                code="wrong-weights",
            ) from error
        check_loading(found, where=where, part=name)
        networks[name] = network
    return networks


def load_tokenizer(model: BaseModel, class_name: str) -> Any:
    """Load the tokenizer in a base model's files, of a class of transformers.

    Raises:
        UserError: its files are not on this machine and the hub cannot be reached.
    """
    import transformers  # noqa: PLC0415  (slow import)
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    folder = model.location
    try:
        if not model.is_local:
            # from_pretrained would make an empty tokenizer where the files cannot be had.
            folder = snapshot_download(
                folder, revision=model.revision, allow_patterns=["tokenizer/*"]
            )
        return getattr(transformers, class_name).from_pretrained(folder, subfolder="tokenizer")
    except (OSError, HfHubHTTPError) as error:
        raise not_here(model, "tokenizer of", error) from error


def find_quantizer() -> Callable[..., None]:
    """Import what quantises a network.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    try:
        from dreambench.base_models.quantization import quantize  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise UserError(
            "quantised weights need the package bitsandbytes",
            hint="pip install 'dreambench[small-gpu]', or quantization = 'none' in the recipe",
            code="missing-package",
        ) from error
    return quantize


def not_here(model: BaseModel, what: str, error: Exception) -> UserError:
    """Return the error for a base model's files that cannot be had: a folder's, or the hub's.

    Raises:
        DiskError: it is this machine's disk that refused them.
    """
    if not model.is_local:
        raise_if_disk(error)
        return UserError(
            f"the {what} '{model.name}' ({model.location}, revision {model.revision}) is not on "
            "this machine and the hub cannot be reached",
            hint=f"download its diffusers folder and pass --base-model {model.name}=FOLDER"
            + (f" ({model.terms})" if model.is_gated else ""),
            code="hub-unreachable",
        )
    folder = Path(model.location)
    try:
        check_folder(folder, PARTS[model.family])
    except UserError as found:
        return found
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return UserError(
        f"the {what} '{model.name}' cannot be loaded from {folder}: {reason}",
        hint="download or convert the folder again",
        code="incomplete-base-model",
    )


@contextmanager
def only_errors() -> Iterator[None]:
    """Keep diffusers and transformers from saying anything below an error, which is meant so."""
    from diffusers.utils import logging as of_diffusers  # noqa: PLC0415  (slow import)
    from transformers.utils import logging as of_transformers  # noqa: PLC0415

    before = [(module, module.get_verbosity()) for module in (of_diffusers, of_transformers)]
    for module, _ in before:
        module.set_verbosity_error()
    try:
        yield
    finally:
        for module, verbosity in before:
            module.set_verbosity(verbosity)
