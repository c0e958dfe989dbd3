"""Weights files in the layouts that people have, for the networks that timm and open_clip build.

An encoder's weights are published by several hands under several key names: the authors' own
(which timm and open_clip kept), and those of transformers, old and new. The numbers are the same;
here the names become those of timm and open_clip. The tables stay, for neither library reads
transformers' names: timm 1.0's `checkpoint_filter_fn` knows OpenAI's, DINOv2's own and a few
others, open_clip 3's `convert_state_dict` MobileCLIP's alone; and to pin other files of the hub
that have their names would give every encoder another identity.
"""

from __future__ import annotations

import logging
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dreambench.base_models.weights import PLACES, check_state
from dreambench.encoders.spec import EncoderSpec
from dreambench.errors import UserError, disk_errors
from dreambench.storage.formats import advise, find_weights_damage, read_head, recognise

State = dict[str, Tensor]


class _NoInitialWeights(TorchFunctionMode):
    """Leaves out what `torch.nn.init` would fill: for a large network that takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs or {})


@contextmanager
def building() -> Iterator[None]:
    """Let libraries build a network whose weights come next: no random ones, and no warning of it.

    open_clip logs them on the root logger; lpips calls torchvision by old names.
    """

    def is_above(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    root = logging.getLogger()
    root.addFilter(is_above)
    try:
        with warnings.catch_warnings(), _NoInitialWeights():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(is_above)


HARMLESS = "|".join(
    (
        PLACES,
        r"(embeddings\.)?mask_token",  # DINOv2 hides patches behind it in training.
        r"pooler\.dense\.(weight|bias)",  # Transformers' own, which no task was trained with.
        r"head\.(weight|bias)",  # A classifier of ImageNet, where features are asked for.
        r"input_resolution|context_length|vocab_size",  # Numbers in OpenAI's own files.
    )
)
"""Names that files of published encoders have besides the weights of the network."""


def fill_network(spec: EncoderSpec, path: Path, model: Any, state: State) -> None:
    """Load every weight of a network.

    Raises:
        UserError: one is missing, of another shape, or none of its own.
    """
    own = model.state_dict()
    check_state(
        own, state, where=str(path), part=f"the encoder '{spec.name}' ({spec.architecture})",
        hint=spec.how_to_get, harmless=HARMLESS,
    )  # fmt: skip
    model.load_state_dict({key: state[key].to(own[key].dtype) for key in own}, assign=True)


def read_weights(path: Path) -> State:
    """Read the tensors of a .safetensors file, or of a torch file that holds nothing but tensors.

    No code of a file is run.

    Raises:
        UserError: the file is anything else.
    """
    with disk_errors(path, reads=True):
        found = recognise(read_head(path))
        is_torchscript = _is_torchscript(path)
    if found is not None and found.kind in ("pointer", "page", "empty"):
        raise UserError(f"{path} is {found.name}", hint=advise(found), code="unreadable-file")
    if is_torchscript:
        raise UserError(
            f"{path} is a TorchScript archive, as OpenAI publishes its CLIPs: it holds code, which "
            "is not run",
            hint="download the weights alone (dreambench doctor says which file), or write them, "
            f'where you trust the file: python -c "import torch; torch.save(torch.jit.load('
            f"'{path.name}', 'cpu').state_dict(), 'weights.bin')\"",
            code="unreadable-file",
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Mapped where the format can be, so that weights are in memory once and not while they
        # are copied as well.
        state = torch.load(
            path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path)
        )
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _unreadable(path) from error
    except Exception as error:
        # torch raises pickle.UnpicklingError when a file asks for more than tensors.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise _unreadable(path) from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping) or not all(torch.is_tensor(v) for v in state.values()):
        raise _unreadable(path)
    return dict(state)


def _is_torchscript(path: Path) -> bool:
    """Return whether a file is a network with its code, and not tensors alone."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.partition("/")[2].startswith("code/") for name in archive.namelist())


def _unreadable(path: Path) -> UserError:
    damage = find_weights_damage(path) if path.suffix == ".safetensors" else None
    reason, hint = damage or (
        "is not a file of weights alone (safetensors, or torch tensors)",
        "download it again from its source",
    )
    return UserError(f"{path} {reason}", hint=hint, code="unreadable-file")


def _rename(state: State, rules: Sequence[tuple[str, str]]) -> State:
    """Rename keys by the first rule that matches the whole key; others keep their names."""
    renamed = {}
    for key, value in state.items():
        found = (
            match.expand(name) for pattern, name in rules if (match := re.fullmatch(pattern, key))
        )
        renamed[next(found, key)] = value
    return renamed


def _join_qkv(state: State, joined: str) -> State:
    """Join `X#q.weight`, `X#k.weight`, `X#v.weight` to `X` + `joined` with weight or bias.

    Where one of the three is missing, the others stay, and are seen not to be a network's own.
    """
    found = dict(state)
    for key in [key for key in state if "#q." in key]:
        stem, _, kind = key.partition("#q.")
        names = [f"{stem}#{part}.{kind}" for part in "qkv"]
        if all(name in found for name in names):
            found[stem + joined.format(kind)] = torch.cat([found.pop(name) for name in names])
    return found


_VIT_BLOCK = r"(?:encoder\.layer|encoder\.layers|layers)\.(\d+)\."
_VIT_RULES = [
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
    *(
        rule
        for part, name in (("q", "query"), ("k", "key"), ("v", "value"))
        for rule in (
            (
                _VIT_BLOCK + rf"attention\.attention\.{name}\.(weight|bias)",
                rf"blocks.\1.attn#{part}.\2",
            ),
            (_VIT_BLOCK + rf"attention\.{part}_proj\.(weight|bias)", rf"blocks.\1.attn#{part}.\2"),
        )
    ),
    (
        _VIT_BLOCK + r"attention\.(?:output\.dense|o_proj)\.(weight|bias)",
        r"blocks.\1.attn.proj.\2",
    ),
    (_VIT_BLOCK + r"(?:layernorm_before|norm1)\.(weight|bias)", r"blocks.\1.norm1.\2"),
    (_VIT_BLOCK + r"(?:layernorm_after|norm2)\.(weight|bias)", r"blocks.\1.norm2.\2"),
    (_VIT_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
    (_VIT_BLOCK + r"(?:output\.dense|mlp\.fc2)\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
    (_VIT_BLOCK + r"layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"layernorm\.(weight|bias)", r"norm.\1"),
]


def to_timm_vit(state: State) -> State:
    """Return a ViT's weights under timm's names, also those of transformers' models."""
    state = {
        key.removeprefix("vit.").removeprefix("dinov2."): value for key, value in state.items()
    }
    if "cls_token" in state:
        return state
    return _join_qkv(_rename(state, _VIT_RULES), ".qkv.{}")


_OPEN_CLIP_BLOCK = {
    r"self_attn\.q_proj": "attn#q", r"self_attn\.k_proj": "attn#k", r"self_attn\.v_proj": "attn#v",
    r"self_attn\.out_proj": "attn.out_proj", r"layer_norm1": "ln_1", r"layer_norm2": "ln_2",
    r"mlp\.fc1": "mlp.c_fc", r"mlp\.fc2": "mlp.c_proj",
}  # fmt: skip
_TIMM_BLOCK = {
    **_OPEN_CLIP_BLOCK, r"self_attn\.out_proj": "attn.proj", r"layer_norm1": "norm1",
    r"layer_norm2": "norm2", r"mlp\.fc1": "mlp.fc1", r"mlp\.fc2": "mlp.fc2",
}  # fmt: skip


def _tower_rules(theirs: str, blocks: str, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return rules for the layers of one tower of transformers' models."""
    layer = rf"{theirs}\.encoder\.layers\.(\d+)\."
    return [
        (layer + name + r"\.(weight|bias)", rf"{blocks}.\1.{new}.\2") for name, new in names.items()
    ]


_CLIP_RULES = [
    (r"logit_scale", "logit_scale"),
    (r"text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm\.(weight|bias)", r"ln_final.\1"),
    (r"text_projection\.weight", "text_projection"),
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.(weight|bias)", r"visual.ln_pre.\1"),
    (r"vision_model\.post_layernorm\.(weight|bias)", r"visual.ln_post.\1"),
    (r"visual_projection\.weight", "visual.proj"),
    *_tower_rules("text_model", "transformer.resblocks", _OPEN_CLIP_BLOCK),
    *_tower_rules("vision_model", "visual.transformer.resblocks", _OPEN_CLIP_BLOCK),
]
_SIGLIP_RULES = [
    (r"(logit_scale|logit_bias)", r"\1"),
    (r"text_model\.embeddings\.token_embedding\.weight", "text.token_embedding.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", "text.positional_embedding"),
    (r"text_model\.final_layer_norm\.(weight|bias)", r"text.ln_final.\1"),
    (r"text_model\.head\.(weight|bias)", r"text.text_projection.\1"),
    (
        r"vision_model\.embeddings\.patch_embedding\.(weight|bias)",
        r"visual.trunk.patch_embed.proj.\1",
    ),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.trunk.pos_embed"),
    (r"vision_model\.post_layernorm\.(weight|bias)", r"visual.trunk.norm.\1"),
    (r"vision_model\.head\.probe", "visual.trunk.attn_pool.latent"),
    (
        r"vision_model\.head\.attention\.in_proj_(weight|bias)",
        r"visual.trunk.attn_pool.in_proj_\1",
    ),
    (
        r"vision_model\.head\.attention\.out_proj\.(weight|bias)",
        r"visual.trunk.attn_pool.proj.\1",
    ),
    (r"vision_model\.head\.layernorm\.(weight|bias)", r"visual.trunk.attn_pool.norm.\1"),
    (r"vision_model\.head\.mlp\.(fc[12])\.(weight|bias)", r"visual.trunk.attn_pool.mlp.\1.\2"),
    *_tower_rules("text_model", "text.transformer.resblocks", _OPEN_CLIP_BLOCK),
    *_tower_rules("vision_model", "visual.trunk.blocks", _TIMM_BLOCK),
]


def to_open_clip(state: State) -> State:
    """Return a CLIP's weights under open_clip's names, also from transformers' CLIPModel."""
    if "visual.conv1.weight" in state or "visual.trunk.patch_embed.proj.weight" in state:
        return state
    if "vision_model.head.probe" in state:
        return _siglip_to_open_clip(state)
    found = _join_qkv(_rename(state, _CLIP_RULES), ".in_proj_{}")
    for key in ("text_projection", "visual.proj"):
        if key in found:
            # open_clip multiplies from the other side.
            found[key] = found[key].T.contiguous()
    return found


def _siglip_to_open_clip(state: State) -> State:
    """Return weights of transformers' SiglipModel for timm's image and open_clip's text tower."""
    renamed = _rename(state, _SIGLIP_RULES)
    image = {key: value for key, value in renamed.items() if key.startswith("visual.")}
    text = {key: value for key, value in renamed.items() if not key.startswith("visual.")}
    found = {**_join_qkv(image, ".qkv.{}"), **_join_qkv(text, ".in_proj_{}")}
    for key in [key for key in found if ".attn_pool.in_proj_" in key]:
        stem, _, kind = key.partition("in_proj_")
        query, key_value = found.pop(key).tensor_split([state["vision_model.head.probe"].shape[-1]])
        found[f"{stem}q.{kind}"], found[f"{stem}kv.{kind}"] = query, key_value
    for key in ("logit_scale", "logit_bias"):
        if key in found:
            found[key] = found[key].reshape(())
    if "visual.trunk.pos_embed" in found:
        found["visual.trunk.pos_embed"] = found["visual.trunk.pos_embed"][None]
    return found
