"""Encoders and segmenters by name: the package's tables, and what else is installed. No torch."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, get_args

from dreambench.encoders.outside import GROUP, load_outside
from dreambench.encoders.preprocessing import HALF, IMAGENET, OPENAI, Pixels
from dreambench.encoders.spec import (
    AnyEncoderSpec,
    EncoderSpec,
    OutsideSpec,
    Role,
    SegmenterSpec,
    find_reference,
)
from dreambench.errors import UserError, suggest, unknown_name
from dreambench.plugins import is_reference, list_entry_points

if TYPE_CHECKING:
    from dreambench.encoders.base import Encoder

ROLES: tuple[Role, ...] = get_args(Role)
ENCODER_LIBRARIES = ("timm", "open_clip")
"""What most encoders are loaded by; both take seconds to import."""

_MINI_PIXELS = Pixels(64, 64, HALF, HALF)
# facebookresearch/dino at 7c446df, eval_knn.py; facebookresearch/dinov2 at fc49f49,
# dinov2/data/transforms.py (make_classification_eval_transform).
_DINO_PIXELS = Pixels(256, 224, *IMAGENET)
# openai/CLIP at 3bee281, clip/clip.py (_transform).
_CLIP_PIXELS = Pixels(224, 224, *OPENAI)
# Of that file at that revision, as public manifests have it (2026-11).
_CLIP_B_32_SHA256 = "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"
_DINO_URL = "https://dl.fbaipublicfiles.com/dino"


def _dino(name: str, architecture: str, file: str, megabytes: int, sha256: str = "") -> EncoderSpec:
    """Describe a DINO (Caron et al., ICCV 2021): the authors' file, transform and class token."""
    url = f"{_DINO_URL}/{file.removesuffix('.pth')}/{file}"
    return EncoderSpec(
        name, "dino", "timm", architecture, _DINO_PIXELS, "cls", url=url, file=file,
        n_download_bytes=megabytes * 1_000_000, sha256=sha256,
    )  # fmt: skip


def _dinov2(name: str, architecture: str, hub: str, revision: str, megabytes: int) -> EncoderSpec:
    """Describe a DINOv2 (Oquab et al., TMLR 2024): class token, 224 px as in its evaluation."""
    return EncoderSpec(
        name, "dino", "timm", architecture, _DINO_PIXELS, "cls", hub=hub, revision=revision,
        file="model.safetensors", n_download_bytes=megabytes * 1_000_000,
    )  # fmt: skip


def _clip(
    name: str,
    architecture: str,
    hub: str,
    revision: str,
    file: str,
    megabytes: int,
    sha256: str = "",
) -> EncoderSpec:
    """Describe a CLIP (Radford et al., ICML 2021): its own transform, both towers' projections."""
    return EncoderSpec(
        name, "clip", "open_clip", architecture, _CLIP_PIXELS, "projected", hub=hub,
        revision=revision, file=file, n_download_bytes=megabytes * 1_000_000, sha256=sha256,
    )  # fmt: skip


# The revisions are those of the hub's main branches as public code pins them (2026-11).
ENCODERS = {
    spec.name: spec
    for spec in (
        EncoderSpec(
            "mini-vit", "dino", "timm", "mini-vit-two-view", _MINI_PIXELS, "cls", shipped="vit"
        ),
        EncoderSpec(
            "mini-clip", "clip", "open_clip", "mini-clip", _MINI_PIXELS, "projected",
            shipped="clip",
        ),
        # Trained apart from mini-clip, and smaller: for images that mini-clip has steered.
        EncoderSpec(
            "mini-clip-2", "clip", "open_clip", "mini-clip-2", _MINI_PIXELS, "projected",
            shipped="clip-2",
        ),
        EncoderSpec(
            "mini-vit-patches", "perceptual", "timm", "mini-vit-two-view", _MINI_PIXELS,
            "patches", shipped="vit", layers=(2, 4),
        ),
        # The paper's is ViT-S/16. Nobody has published the SHA-256 of the two small files (their
        # names carry none); that of the base one is from several public manifests (2026-11).
        _dino("dino-vits16", "vit_small_patch16_224.dino", "dino_deitsmall16_pretrain.pth", 87),
        _dino("dino-vits8", "vit_small_patch8_224.dino", "dino_deitsmall8_pretrain.pth", 87),
        _dino("dino-vitb16", "vit_base_patch16_224.dino", "dino_vitbase16_pretrain.pth", 343,
              "bf34ad0f424b9029b593e8dc3ed553bf26e88bcba0d32bf3e62a6209cb64c85e"),
        # The preprocessor of facebook/dino-vits16 on the hub (preprocessor_config.json), which is
        # not what DINO was trained on; OFT's scorer takes it (Zeju1997/oft at 8d2b366, oft-db/).
        replace(
            _dino("dino-vits16-hf", "vit_small_patch16_224.dino",
                  "dino_deitsmall16_pretrain.pth", 87),
            pixels=Pixels(224, 224, HALF, HALF, "bilinear", "squash"), stored_as="dino-vits16",
        ),
        _dinov2(
            "dinov2-vits14", "vit_small_patch14_dinov2.lvd142m", "facebook/dinov2-small",
            "ed25f3a31f01632728cabb09d1542f84ab7b0056", 88,
        ),
        _dinov2(
            "dinov2-vitb14", "vit_base_patch14_dinov2.lvd142m", "facebook/dinov2-base",
            "f9e44c814b77203eaa57a6bdbbd535f21ede1415", 346,
        ),
        # The paper's is ViT-B/32.
        _clip(
            "clip-vit-b-32", "ViT-B-32-quickgelu", "openai/clip-vit-base-patch32",
            "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", "pytorch_model.bin", 605, _CLIP_B_32_SHA256,
        ),
        # Images resized as tensors without antialiasing (rinongal/textual_inversion at 424192d,
        # evaluation/clip_eval.py).
        replace(
            _clip(
                "clip-vit-b-32-tensor", "ViT-B-32-quickgelu", "openai/clip-vit-base-patch32",
                "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", "pytorch_model.bin", 605,
                _CLIP_B_32_SHA256,
            ),
            pixels=Pixels(224, 224, *OPENAI, "bicubic-tensor"), stored_as="clip-vit-b-32",
        ),
        _clip(
            "clip-vit-b-16", "ViT-B-16-quickgelu", "openai/clip-vit-base-patch16",
            "57c216476eefef5ab752ec549e440a49ae4ae5f3", "pytorch_model.bin", 599,
        ),
        _clip(
            "clip-vit-l-14", "ViT-L-14-quickgelu", "openai/clip-vit-large-patch14",
            "32bd64288804d66eefd0ccbe215aa642df71cc41", "model.safetensors", 1711,
        ),
        _clip(
            "clip-vit-h-14", "ViT-H-14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
            "de081ac0a0ca8dc9d1533eed1ae884bb8ae1404b", "open_clip_pytorch_model.bin", 3945,
        ),
        # SigLIP (Zhai et al., ICCV 2023), which squashes images and was trained with JAX's GELU
        # (google-research/big_vision at 7ce694f, .../proj/image_text/SigLIP_demo.ipynb).
        EncoderSpec(
            "siglip-vit-b-16", "clip", "open_clip", "ViT-B-16-SigLIP",
            Pixels(224, 224, HALF, HALF, fit="squash"), "projected",
            hub="google/siglip-base-patch16-224",
            revision="7fd15f0689c79d79e38b1c2e2e2370a7bf2761ed", file="model.safetensors",
            n_download_bytes=813_000_000, activation="gelu-tanh", tokenizer_file="spiece.model",
        ),
        # richzhang/PerceptualSimilarity at c82f1ed, lpips/lpips.py.
        EncoderSpec(
            "lpips-alex", "perceptual", "lpips", "alex", Pixels(256, 256, HALF, HALF),
            "lpips-v0.1", url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            file="alexnet-owt-7be5be79.pth", n_download_bytes=244_000_000,
            sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        ),
    )
}  # fmt: skip

_CLIPSEG_FILES = (
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip
SEGMENTERS = {
    spec.name: spec
    for spec in (
        SegmenterSpec(
            name="mini-segmenter", network="segformer",
            pixels=Pixels(64, 64, HALF, HALF, fit="squash"), shipped="segmenter",
        ),
        # CLIPSeg (Lueddecke and Ecker, CVPR 2022), whose own transform squashes images
        # (timojl/clipseg at a55510b, Quickstart.ipynb). The revision is that of the hub's main
        # branch as public code pins it (2026-09).
        SegmenterSpec(
            name="clipseg", network="clipseg",
            pixels=Pixels(352, 352, *IMAGENET, "bilinear", "squash"),
            hub="CIDAS/clipseg-rd64-refined",
            revision="999e0328d9e10b484360c477313983f9afdd7050",
            n_download_bytes=605_000_000, files=_CLIPSEG_FILES,
        ),
    )
}  # fmt: skip


def find_encoder(name: str, role: str) -> AnyEncoderSpec:
    """Return an encoder by name: the package's own, or one that an installed package registers.

    The code of the latter is imported.

    Raises:
        UserError: the name is unknown, or plays another role.
    """
    own = tuple(spec.name for spec in ENCODERS.values() if spec.role == role)
    if name in own:
        return ENCODERS[name]
    points = list_entry_points(GROUP)
    if name not in points:
        raise unknown_name(f"{role} encoder", name, [*own, *points])
    return load_outside(name, role, known=own)


def parse_encoder_options(values: Sequence[str]) -> dict[str, str]:
    """Return what `--encoder ROLE=ENCODER` says, each once: role -> `FILE.py:Class` or a name.

    Raises:
        UserError: one is not of that form, or a role is given twice.
    """
    found: dict[str, str] = {}
    for value in values:
        role, _, encoder = value.partition("=")
        if not encoder or not re.fullmatch(r"[a-z][a-z0-9-]*", role):
            raise UserError(
                f"--encoder {value} is not of the form ROLE=ENCODER",
                hint="e.g. --encoder dino=my_encoder.py:MyEncoder",
                code="invalid-value",
            )
        if role in found:
            raise UserError(
                f"--encoder {role}=... is given twice", hint="name one", code="given-twice"
            )
        found[role] = encoder
    return found


def choose_encoders(
    named: Mapping[str, str],
    overrides: Mapping[str, str] | None = None,
    *,
    inputs: Collection[str] | None = None,
) -> dict[str, AnyEncoderSpec]:
    """Return the encoder of each input of metrics, the known roles first.

    `named` are those of a protocol, by role; `overrides` what the user names in their place or for
    another input, see `parse_encoder_options`: only these may be a `FILE.py:Class`, for code is
    never executed because a protocol names it. `inputs` are what the chosen metrics read, by
    default all that is named; others are left out.

    Raises:
        UserError: an encoder is unknown or not for its role, an input has none, or no metric reads
            an override.
    """
    overrides = overrides or {}
    wanted = set(inputs) if inputs is not None else {*named, *overrides}
    for role in overrides:
        if role not in wanted:
            known = ", ".join(sorted(wanted))
            raise UserError(
                f"no metric reads the input '{role}' that --encoder {role}=... is for",
                hint=suggest(role, wanted) or f"inputs of the metrics: {known}",
                code="unknown-name",
            )
    found: dict[str, AnyEncoderSpec] = {}
    for role in dict.fromkeys((*ROLES, *named, *overrides)):
        if role in wanted and role in overrides:
            reference = overrides[role]
            is_file = is_reference(reference)
            found[role] = (
                load_outside(reference, role) if is_file else find_encoder(reference, role)
            )
        elif role in wanted and role in named:
            found[role] = find_encoder(named[role], role)
    if missing := sorted(wanted - found.keys()):
        raise UserError(
            f"a metric reads the input '{missing[0]}', and no encoder is named for it",
            hint=f"add --encoder {missing[0]}=FILE.py:Class",
            code="missing-encoder",
        )
    return found


def check_encoders(
    stored: Mapping[str, str], specs: Mapping[str, AnyEncoderSpec], *, where: str
) -> None:
    """Check that encoders are those that a folder was made with; `stored` are its identities.

    Raises:
        UserError: one differs; says which `--encoder` it needs.
    """
    for role, identity in stored.items():
        found = specs[role].identity() if role in specs else "none"
        reference = find_reference(identity)
        if found == identity:
            continue
        if reference is not None and find_reference(found) != reference:
            raise UserError(
                f"{where} was made with the encoder {reference} for '{role}'",
                hint=f"add --encoder {role}={reference}, with the path of that file",
                code="missing-encoder",
            )
        raise UserError(
            f"{where} was made with the encoder {identity} for '{role}', which is now {found}",
            hint="restore that one, or score into another folder",
            code="changed-encoder",
        )


def make_encoder(spec: AnyEncoderSpec, *, device: str = "cpu") -> Encoder:
    """Return an encoder; its network is built when it is first needed.

    Raises:
        UserError: its weights are not on this machine.
    """
    if isinstance(spec, OutsideSpec):
        return spec.encoder(spec, device=device)
    from dreambench.encoders import image_text, perceptual, vision  # noqa: PLC0415  (torch)

    classes: dict[tuple[str, str], type[Encoder]] = {
        ("dino", "timm"): vision.VisionEncoder,
        ("clip", "open_clip"): image_text.ImageTextEncoder,
        ("perceptual", "timm"): perceptual.PatchEncoder,
        ("perceptual", "lpips"): perceptual.LpipsEncoder,
    }
    return classes[spec.role, spec.library](spec, device=device)


@functools.lru_cache(maxsize=8)
def load_spec(spec: AnyEncoderSpec, *, device: str = "cpu") -> Encoder:
    """Return an encoder, made once per process; see `make_encoder`."""
    return make_encoder(spec, device=device)


def load_encoder(name: str, role: str, *, device: str = "cpu") -> Encoder:
    """Return an encoder by name for a role, made once per process; see `make_encoder`."""
    return load_spec(find_encoder(name, role), device=device)


def describe_encoders() -> list[dict[str, Any]]:
    """Return what tells encoders apart, one row each: those of the package, then installed ones.

    Of what other packages register, whose code is not imported, there are the name and its source.
    `text` says all of it in one line.
    """
    return [_describe(spec) for spec in ENCODERS.values()] + [
        {
            "name": name,
            "role": None,
            "library": point.dist.name if point.dist else None,
            "architecture": point.value,
            "text": f"{point.value} of {point.dist.name if point.dist else 'an unknown package'}",
        }
        for name, point in list_entry_points(GROUP).items()
    ]


def _describe(spec: EncoderSpec) -> dict[str, Any]:
    pixels = asdict(spec.pixels)
    pooling = spec.pooling + (
        " of blocks " + ",".join(map(str, spec.layers)) if spec.layers else ""
    )
    facts = (f"{spec.library} {spec.architecture} {spec.activation}".strip(), str(spec.pixels))
    if spec.pixels.fit == "squash":
        del pixels["resize_px"]
    return {
        "name": spec.name,
        "role": spec.role,
        "library": spec.library,
        "architecture": spec.architecture,
        "pixels": pixels,
        "pooling": spec.pooling,
        "layers": list(spec.layers),
        "activation": spec.activation or None,
        "precision": spec.precision,
        "weights": "shipped" if spec.shipped else spec.hub or spec.url,
        "file": spec.file or None,
        "revision": spec.revision,
        "sha256": spec.sha256 or None,
        "download_bytes": spec.n_download_bytes,
        "text": f"{spec.role}: {', '.join(facts)}, {pooling}, {spec.precision}; {spec.source}",
    }


def find_segmenter(name: str) -> SegmenterSpec:
    """Return a segmenter by name.

    Raises:
        UserError: the name is unknown.
    """
    if name not in SEGMENTERS:
        raise unknown_name("segmenter", name, SEGMENTERS)
    return SEGMENTERS[name]
