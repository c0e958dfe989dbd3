"""Names of base models, with pinned revisions, facts, and families. Imports no torch.

Counts are pinned and not taken from empty weights on the meta device (accelerate's
`init_empty_weights`): `plan` and `list` need them before a model's config is on this machine, and
without torch; `python benchmarks/full_size.py --count` counts them that way.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dreambench.artifacts.long_texts import TextReader
from dreambench.base_models.folder import INDEX, check_folder, check_mark
from dreambench.config.sampler import FLOW, Precision, Quantization, Sampler, SamplerSettings
from dreambench.errors import UserError, unknown_name
from dreambench.storage.downloads import find_cached
from dreambench.storage.files import digest_folder
from dreambench.storage.shipped import PACKAGE_DIR

if TYPE_CHECKING:
    from dreambench.base_models.base import LoadedModel

Family = Literal[
    "stable-diffusion", "sdxl", "unclip", "flux2", "flux", "flux-kontext", "sd3", "qwen-image",
    "qwen-image-edit", "omnigen", "mini-flow", "deepfloyd-if", "deepfloyd-if-upscaler",
]  # fmt: skip

FAMILIES: dict[Family, str] = {
    "stable-diffusion": "dreambench.base_models.stable_diffusion:StableDiffusion",
    "sdxl": "dreambench.base_models.sdxl:StableDiffusionXL",
    "unclip": "dreambench.base_models.unclip:StableUnCLIP",
    "flux2": "dreambench.base_models.flux2:Flux2Klein",
    "flux": "dreambench.base_models.flux:Flux",
    "flux-kontext": "dreambench.base_models.flux:FluxKontext",
    "sd3": "dreambench.base_models.sd3:StableDiffusion3",
    "qwen-image": "dreambench.base_models.qwen_image:QwenImage",
    "qwen-image-edit": "dreambench.base_models.qwen_image:QwenImageEdit",
    "omnigen": "dreambench.base_models.omnigen:OmniGen",
    "mini-flow": "dreambench.base_models.flux2:MiniFlow",
    "deepfloyd-if": "dreambench.base_models.deepfloyd_if:DeepFloydIF",
    "deepfloyd-if-upscaler": "dreambench.base_models.deepfloyd_if:Upscaler",
}
"""The class of each family, imported when a model is loaded, since torch is slow to import."""

DIFFUSION: tuple[Family, ...] = ("stable-diffusion", "sdxl", "unclip")
"""Families with a UNet that was trained by diffusion, which some methods are about by nature."""
IN_CONTEXT: tuple[Family, ...] = (
    "flux2", "flux-kontext", "qwen-image-edit", "omnigen", "mini-flow",
)  # fmt: skip
"""Families that can be shown photos, in one sequence with the image that they draw."""

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_FLOW_PARTS = ("transformer", *_PARTS[1:])
_FLUX_PARTS = (*_FLOW_PARTS, "text_encoder_2", "tokenizer_2")
PARTS: dict[Family, tuple[str, ...]] = {
    "stable-diffusion": _PARTS,
    "sdxl": (*_PARTS, "text_encoder_2", "tokenizer_2"),
    "unclip": (
        *_PARTS, "feature_extractor", "image_encoder", "image_normalizer",
        "image_noising_scheduler",
    ),
    "flux2": _FLOW_PARTS,
    "flux": _FLUX_PARTS,
    "flux-kontext": _FLUX_PARTS,
    "sd3": (*_FLUX_PARTS, "text_encoder_3", "tokenizer_3"),
    "qwen-image": _FLOW_PARTS,
    "qwen-image-edit": (*_FLOW_PARTS, "processor"),
    "omnigen": ("transformer", "vae", "tokenizer", "scheduler"),
    "mini-flow": _FLOW_PARTS,
    "deepfloyd-if": ("unet", "text_encoder", "tokenizer", "scheduler"),
    "deepfloyd-if-upscaler": ("unet", "scheduler", "image_noising_scheduler"),
}  # fmt: skip
"""What a family loads of a pipeline's folder."""

TRANSFORMER_FILE = "transformer/diffusion_pytorch_model.safetensors"
UPSCALER_DIR, UPSCALING_STEPS = "upscaler", 50
"""Where stage II of a cascade is in its folder, and how many steps it takes at most."""
FLOW_SIZE_STEP_PX = 16
"""A transformer's token shows 2 x 2 places of the latents, and each of these 8 x 8 pixels."""
MAX_TEXT_TOKENS = 100_000
WEIGHT_SUFFIXES = (".safetensors", ".json", ".txt", ".jinja", ".model")


@dataclass(frozen=True)
class BaseModel:
    """A base model. `name` picks the table in a recipe; `location` is a folder or a hub id.

    `licence` is that of the weights, as their hub page or their package names it; `is_gated` says
    that the hub hands them out only to those who have accepted it. `weights_file` is the denoising
    network's file of weights in the pipeline's folder, or the name that its shards have without
    their numbers. `flow` is how its makers sample a model that was trained by flow matching; None
    for diffusion. `is_distilled` says that guidance takes no second call of the network. `upscaler`
    is a cascade's stage II: hub id, revision, parameters; a folder has it in `upscaler/`. `mark` is
    a file of a snapshot, a key in it and its value, by which other weights of the family are told
    from these. The counts are of parameters: `n_denoiser` of that network, `n_other` of autoencoder
    and text encoders, `n_text` of text encoders alone, `n_cross_attention` of the keys and values
    of cross-attention; `text_width` of a word's vector. `adapted_shapes` are the denoising
    network's layers that LoRA and other adapters stand in: inputs, outputs, and how many such;
    `adapted_block` are those of the block whose inputs are the most.
    A training step in fp32 keeps `activation_bytes` for each image of `size_px`, and
    `checkpointed_bytes` with gradient checkpointing.
    """

    name: str
    location: str
    revision: str | None = None
    family: Family = "stable-diffusion"
    size_px: int = 512
    weights_file: str = "unet/diffusion_pytorch_model.safetensors"
    licence: str = ""
    is_gated: bool = False
    flow: SamplerSettings | None = None
    is_distilled: bool = False
    upscaler: tuple[str, str, int] | None = None
    mark: tuple[str, str, bool] | None = None
    n_download_bytes: int = 0
    n_denoiser_parameters: int = 0
    n_other_parameters: int = 0
    n_text_parameters: int = 0
    adapted_shapes: tuple[tuple[int, int, int], ...] = ()
    adapted_block: tuple[tuple[int, int, int], ...] = ()
    n_cross_attention_parameters: int = 0
    text_width: int = 0
    activation_bytes: int = 0
    checkpointed_bytes: int = 0

    @property
    def is_local(self) -> bool:
        """Whether the location is a folder on this machine."""
        return Path(self.location).is_dir()

    def find_upscaler(self) -> BaseModel:
        """Return stage II of a cascade."""
        assert self.upscaler is not None
        location, revision, _ = self.upscaler
        found = replace(self, family="deepfloyd-if-upscaler", upscaler=None)
        if self.is_local:
            return replace(found, location=str(Path(self.location) / UPSCALER_DIR))
        return replace(found, location=location, revision=revision)

    def find_weights(self) -> Path | None:
        """Return the denoising network's weights on this machine, local or in the hub's cache.

        None also where they are in several files.
        """
        return self._find(self.weights_file)

    def is_here(self) -> bool:
        """Return whether its weights are on this machine: a local folder, or the hub's cache."""
        names = (self.weights_file, f"{self.weights_file}.index.json")
        if self.upscaler is not None and not self.find_upscaler().is_here():
            return False
        return self.is_local or any(self._find(name) is not None for name in names)

    def _find(self, name: str) -> Path | None:
        if self.is_local:
            path = Path(self.location) / name
            return path if path.is_file() else None
        found = find_cached(self.location, [name], revision=self.revision)
        return next(iter(found), None)

    @property
    def where(self) -> str:
        """Hub id and revision, of both stages of a cascade."""
        found = f"{self.location} at {self.revision}"
        if self.upscaler is not None:
            second, revision, _ = self.upscaler
            found += f", and {second} at {revision} as {UPSCALER_DIR}/ in its folder"
        return found

    @property
    def terms(self) -> str:
        """The licence of the weights, and how to get them where the hub does not simply give them.

        Whoever has a folder has them already.
        """
        if not self.is_gated or self.is_local:
            return f"licence {self.licence}"
        return (
            f"licence {self.licence}; gated: accept it at https://huggingface.co/{self.location} "
            "and log in with `hf auth login`"
        )

    def choose_sampler(self, settings: SamplerSettings) -> Sampler:
        """Return what images are sampled with under a protocol.

        A protocol with a scheduler of diffusion means nothing to a model of flow matching, which
        then has its makers' steps and guidance, at the protocol's size.

        Raises:
            UserError: the protocol's scheduler or size is not one that this model can have.
        """
        if self.flow is None and settings.scheduler == FLOW:
            raise UserError(
                f"the scheduler {FLOW} is not for the base model '{self.name}', which was trained "
                "by diffusion",
                hint="set another scheduler in the protocol, or pass another --base-model",
                code="unsupported-base-model",
            )
        chosen = settings
        if self.flow is not None and settings.scheduler != FLOW:
            chosen = self.flow.model_copy(update={"size_px": settings.size_px})
        sampler = chosen.at_size(self.size_px)
        if self.flow is not None and sampler.size_px % FLOW_SIZE_STEP_PX:
            raise UserError(
                f"the base model '{self.name}' makes images of whole squares of "
                f"{FLOW_SIZE_STEP_PX} px, and the protocol asks for {sampler.size_px} px",
                hint="set another size_px in the protocol's [sampler]",
                code="invalid-value",
            )
        return sampler

    def note_sampler(self, settings: SamplerSettings) -> list[str]:
        """Return a line where images are not sampled as a protocol says, for whoever runs it."""
        found = self.choose_sampler(settings)
        if found.scheduler == settings.scheduler:
            return []
        return [
            f"{settings.scheduler} is for models of diffusion: '{self.name}' is sampled with "
            f"{found.scheduler}, {found.n_steps} steps, guidance {found.guidance_scale:g}"
        ]

    def count_calls(self, sampler: Sampler) -> int:
        """Return the evaluations of the network for one image; guidance takes two a step."""
        is_guided = sampler.guidance_scale > 1 and not self.is_distilled
        n_calls = sampler.n_steps * (2 if is_guided else 1)
        if self.upscaler is not None:
            n_calls += 2 * min(sampler.n_steps, UPSCALING_STEPS)
        return n_calls

    def identity(self) -> str:
        """Return the name with the digest of a local folder's weights, or with hub revision."""
        if self.is_local:
            content = digest_folder(Path(self.location), suffixes=WEIGHT_SUFFIXES)
            return f"{self.name}:folder@{content}"
        second = "" if self.upscaler is None else "+{}@{}".format(*self.upscaler[:2])
        return f"{self.name}:{self.location}@{self.revision}{second}"


_SD15_SHAPES = (
    (320, 320, 30), (640, 640, 30), (768, 320, 10), (768, 640, 10), (768, 1280, 12),
    (1280, 1280, 36),
)  # fmt: skip
_SD21_SHAPES = (
    (320, 320, 30), (640, 640, 30), (1024, 320, 10), (1024, 640, 10), (1024, 1280, 12),
    (1280, 1280, 36),
)  # fmt: skip
_FLUX2_SHAPES = ((3072, 3072, 20), (3072, 27648, 20), (12288, 3072, 20))
_FLUX_SHAPES = ((3072, 3072, 266), (3072, 12288, 38), (12288, 3072, 38))

# The revisions are those of the hub's main branches as public code pins them (2026-11).
BASE_MODELS = {
    model.name: model
    for model in (
        BaseModel(
            "mini",
            str(PACKAGE_DIR / "mini" / "weights" / "base"),
            licence="apache-2.0",
            n_denoiser_parameters=9_310_568,
            n_other_parameters=2_856_867,
            n_text_parameters=1_396_416,
            size_px=64,
            adapted_shapes=((96, 96, 30), (144, 144, 36), (192, 96, 10), (192, 144, 12)),
            adapted_block=((144, 144, 6), (192, 144, 2)),
            n_cross_attention_parameters=516_096,
            text_width=192,
            activation_bytes=10_404_872,
            checkpointed_bytes=2_825_616,
        ),
        BaseModel(
            "sd15",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            licence="creativeml-openrail-m",
            n_download_bytes=4_270_000_000,
            n_denoiser_parameters=859_520_964,
            n_other_parameters=206_714_343,
            n_text_parameters=123_060_480,
            adapted_shapes=_SD15_SHAPES,
            adapted_block=((768, 1280, 2), (1280, 1280, 6)),
            n_cross_attention_parameters=19_169_280,
            text_width=768,
            activation_bytes=1_881_558_280,
            checkpointed_bytes=482_903_312,
        ),
        BaseModel(
            "sd21",
            "stabilityai/stable-diffusion-2-1",
            "5cae40e6a2745ae2b01ad92ae5043f95f23644d6",
            licence="openrail++",
            n_download_bytes=5_160_000_000,
            size_px=768,
            n_denoiser_parameters=865_910_724,
            n_other_parameters=424_041_703,
            n_text_parameters=340_387_840,
            adapted_shapes=_SD21_SHAPES,
            adapted_block=((1024, 1280, 2), (1280, 1280, 6)),
            n_cross_attention_parameters=25_559_040,
            text_width=1024,
            activation_bytes=4_211_071_112,
            checkpointed_bytes=1_085_815_056,
        ),
        # Tuned from sd21 to be told of an image by its CLIP embedding; its encoder counts as other.
        BaseModel(
            "sd21-unclip",
            "stabilityai/stable-diffusion-2-1-unclip",
            "e99f66a92bdcd1b0fb0d4b6a9b81b3b37d8bea44",
            "unclip",
            licence="openrail++",
            n_download_bytes=7_750_000_000,
            size_px=768,
            n_denoiser_parameters=870_173_124,
            n_other_parameters=1_056_118_503,
            n_text_parameters=340_387_840,
            adapted_shapes=_SD21_SHAPES,
            adapted_block=((1024, 1280, 2), (1280, 1280, 6)),
            n_cross_attention_parameters=25_559_040,
            text_width=1024,
            activation_bytes=4_211_086_472,
            checkpointed_bytes=1_085_825_296,
        ),
        BaseModel(
            "sdxl",
            "stabilityai/stable-diffusion-xl-base-1.0",
            "462165984030d82259a11f4367a4eed129e94a7b",
            "sdxl",
            licence="openrail++",
            n_download_bytes=13_880_000_000,
            size_px=1024,
            n_denoiser_parameters=2_567_463_684,
            n_other_parameters=901_374_183,
            n_text_parameters=817_720_320,
            adapted_shapes=((640, 640, 60), (1280, 1280, 360), (2048, 640, 20), (2048, 1280, 120)),
            adapted_block=((1280, 1280, 6), (2048, 1280, 2)),
            n_cross_attention_parameters=340_787_200,
            text_width=768 + 1280,
            activation_bytes=13_825_169_160,
            checkpointed_bytes=1_448_799_760,
        ),
        # Steps and guidance of flow models are those of their hub pages' examples.
        BaseModel(
            "flux2-klein-base",
            "black-forest-labs/FLUX.2-klein-base-4B",
            "a3b4f4849157f664bdbc776fd7453c2783562f4d",
            "flux2",
            licence="apache-2.0",
            weights_file=TRANSFORMER_FILE,
            flow=SamplerSettings(scheduler=FLOW, n_steps=50, guidance_scale=4.0),
            mark=(INDEX, "is_distilled", False),
            size_px=1024,
            n_download_bytes=16_000_000_000,
            n_denoiser_parameters=3_875_544_576,
            n_other_parameters=4_106_514_211,
            n_text_parameters=4_022_468_096,
            adapted_shapes=_FLUX2_SHAPES,
            adapted_block=((3072, 27648, 1), (12288, 3072, 1)),
            activation_bytes=36_516_271_112,
            checkpointed_bytes=3_648_082_952,
        ),
        # Distilled from the former to a few steps without guidance.
        BaseModel(
            "flux2-klein",
            "black-forest-labs/FLUX.2-klein-4B",
            "5e67da950fce4a097bc150c22958a05716994cea",
            "flux2",
            licence="apache-2.0",
            weights_file=TRANSFORMER_FILE,
            flow=SamplerSettings(scheduler=FLOW, n_steps=4, guidance_scale=1.0),
            is_distilled=True,
            mark=(INDEX, "is_distilled", True),
            size_px=1024,
            n_download_bytes=16_000_000_000,
            n_denoiser_parameters=3_875_544_576,
            n_other_parameters=4_106_514_211,
            n_text_parameters=4_022_468_096,
            adapted_shapes=_FLUX2_SHAPES,
            adapted_block=((3072, 27648, 1), (12288, 3072, 1)),
            activation_bytes=36_516_271_112,
            checkpointed_bytes=3_648_082_952,
        ),
        # Distilled to be told its guidance.
        BaseModel(
            "flux-dev",
            "black-forest-labs/FLUX.1-dev",
            "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
            "flux",
            licence="flux-1-dev-non-commercial-license",
            is_gated=True,
            weights_file=TRANSFORMER_FILE,
            flow=SamplerSettings(scheduler=FLOW, n_steps=50, guidance_scale=3.5),
            is_distilled=True,
            mark=("transformer/config.json", "guidance_embeds", True),
            size_px=1024,
            n_download_bytes=33_700_000_000,
            n_denoiser_parameters=11_901_408_320,
            n_other_parameters=4_969_190_819,
            n_text_parameters=4_885_371_136,
            adapted_shapes=_FLUX_SHAPES,
            adapted_block=((3072, 3072, 8), (3072, 12288, 2), (12288, 3072, 2)),
            activation_bytes=71_501_075_468,
            checkpointed_bytes=4_960_744_456,
        ),
        BaseModel(
            "flux-schnell",
            "black-forest-labs/FLUX.1-schnell",
            "741f7c3ce8b383c54771c7003378a50191e9efe9",
            "flux",
            licence="apache-2.0",
            is_gated=True,
            weights_file=TRANSFORMER_FILE,
            flow=SamplerSettings(scheduler=FLOW, n_steps=4, guidance_scale=0.0),
            is_distilled=True,
            mark=("transformer/config.json", "guidance_embeds", False),
            size_px=1024,
            n_download_bytes=33_700_000_000,
            n_denoiser_parameters=11_891_178_560,
            n_other_parameters=4_969_190_819,
            n_text_parameters=4_885_371_136,
            adapted_shapes=_FLUX_SHAPES,
            adapted_block=((3072, 3072, 8), (3072, 12288, 2), (12288, 3072, 2)),
            activation_bytes=71_501_049_864,
            checkpointed_bytes=4_960_718_856,
        ),
        BaseModel(
            "flux-kontext",
            "black-forest-labs/FLUX.1-Kontext-dev",
            "af58063aa431f4d2bbc11ae46f57451d4416a170",
            "flux-kontext",
            licence="flux-1-dev-non-commercial-license",
            is_gated=True,
            weights_file=TRANSFORMER_FILE,
            flow=SamplerSettings(scheduler=FLOW, n_steps=28, guidance_scale=2.5),
            is_distilled=True,
            mark=("transformer/config.json", "guidance_embeds", True),
            size_px=1024,
            n_download_bytes=33_700_000_000,
            n_denoiser_parameters=11_901_408_320,
            n_other_parameters=4_969_190_819,
            n_text_parameters=4_885_371_136,
            adapted_shapes=((3072, 3072, 266), (3072, 12288, 76), (12288, 3072, 38)),
            adapted_block=((3072, 3072, 8), (3072, 12288, 2), (12288, 3072, 2)),
            activation_bytes=71_501_075_468,
            checkpointed_bytes=4_960_744_456,
        ),
        BaseModel(
            "sd35-medium",
            "stabilityai/stable-diffusion-3.5-medium",
            "b940f670f0eda2d07fbb75229e779da1ad11eb80",
            "sd3",
            licence="stabilityai-ai-community",
            is_gated=True,
            weights_file=TRANSFORMER_FILE,
            flow=SamplerSettings(scheduler=FLOW, n_steps=40, guidance_scale=4.5),
            size_px=1024,
            n_download_bytes=15_800_000_000,
            n_denoiser_parameters=2_243_171_520,
            n_other_parameters=5_664_440_483,
            n_text_parameters=5_580_620_800,
            adapted_shapes=((1536, 1536, 191),),
            adapted_block=((1536, 1536, 8),),
            activation_bytes=19_730_916_380,
            checkpointed_bytes=1_451_113_744,
        ),
        BaseModel(
            "qwen-image",
            "Qwen/Qwen-Image",
            "75e0b4be04f60ec59a75f475837eced720f823b6",
            "qwen-image",
            licence="apache-2.0",
            weights_file=TRANSFORMER_FILE,
            flow=SamplerSettings(scheduler=FLOW, n_steps=50, guidance_scale=4.0),
            size_px=1024,
            n_download_bytes=57_700_000_000,
            n_denoiser_parameters=20_430_401_088,
            n_other_parameters=8_419_059_187,
            n_text_parameters=8_292_166_656,
            adapted_shapes=((3072, 3072, 240),),
            adapted_block=((3072, 3072, 4),),
            activation_bytes=73_909_412_868,
            checkpointed_bytes=4_643_769_864,
        ),
        # The same networks, trained further to edit photos.
        BaseModel(
            "qwen-image-edit",
            "Qwen/Qwen-Image-Edit-2511",
            "6f3ccc0b56e431dc6a0c2b2039706d7d26f22cb9",
            "qwen-image-edit",
            licence="apache-2.0",
            weights_file=TRANSFORMER_FILE,
            flow=SamplerSettings(scheduler=FLOW, n_steps=40, guidance_scale=4.0),
            size_px=1024,
            n_download_bytes=57_700_000_000,
            n_denoiser_parameters=20_430_401_088,
            n_other_parameters=8_419_059_187,
            n_text_parameters=8_292_166_656,
            adapted_shapes=((3072, 3072, 240),),
            adapted_block=((3072, 3072, 4),),
            activation_bytes=73_909_412_868,
            checkpointed_bytes=4_643_769_864,
        ),
        # Not trained here. Its transformer reads words itself.
        BaseModel(
            "omnigen",
            "Shitao/OmniGen-v1-diffusers",
            "016e2f61d12a98303f6bbdf122687694d7984268",
            "omnigen",
            licence="mit",
            weights_file=TRANSFORMER_FILE,
            flow=SamplerSettings(scheduler=FLOW, n_steps=50, guidance_scale=2.5),
            size_px=1024,
            n_download_bytes=7_700_000_000,
            n_denoiser_parameters=3_762_072_592,
            n_other_parameters=83_653_863,
            adapted_shapes=((3072, 3072, 128),),
            adapted_block=((3072, 3072, 4),),
        ),
        # Two networks on pixels, the second of 1.2 billion parameters by its hub page; activations
        # are the first's.
        BaseModel(
            "deepfloyd-if",
            "DeepFloyd/IF-I-XL-v1.0",
            "c03d510e9b75bce9f9db5bb85148c1402ad7e694",
            "deepfloyd-if",
            licence="deepfloyd-if-license",
            is_gated=True,
            upscaler=(
                "DeepFloyd/IF-II-L-v1.0",
                "609476ce702b2d94aff7d1f944dcc54d4f972901",
                1_200_000_000,
            ),
            size_px=256,
            n_download_bytes=41_000_000_000,
            n_denoiser_parameters=4_304_695_110,
            n_other_parameters=5_962_310_656,
            n_text_parameters=4_762_310_656,
            adapted_shapes=(
                (1408, 1408, 28),
                (2112, 2112, 28),
                (2816, 1408, 14),
                (2816, 2112, 14),
                (2816, 2816, 48),
            ),
            adapted_block=((2816, 2816, 6),),
            activation_bytes=2_092_288_632,
            checkpointed_bytes=1_139_275_384,
        ),
    )
}

MINI_FLOW = BaseModel(
    "mini-flow",
    str(PACKAGE_DIR / "mini" / "weights" / "flow"),
    family="mini-flow",
    licence="apache-2.0",
    weights_file=TRANSFORMER_FILE,
    flow=SamplerSettings(scheduler=FLOW, n_steps=20, guidance_scale=3.0),
    size_px=64,
    n_denoiser_parameters=11_584_256,
    n_other_parameters=2_254_499,
    n_text_parameters=794_048,
    adapted_shapes=((256, 256, 8), (256, 2304, 8), (1024, 256, 8)),
    adapted_block=((256, 2304, 1), (1024, 256, 1)),
    activation_bytes=25_747_976,
    checkpointed_bytes=4_999_944,
)
"""Trained by `mini.training.flow_model`: a base model once its weights are part of the package, and
before that as `mini-flow=FOLDER`."""
if MINI_FLOW.is_local:
    BASE_MODELS[MINI_FLOW.name] = MINI_FLOW


def find_base_model(name: str) -> BaseModel:
    """Return a base model by its name, or by `NAME=FOLDER`: a folder with that name's settings.

    Raises:
        UserError: the name is unknown, or the folder is not a diffusers pipeline, or lacks files;
            see `check_folder`.
    """
    key, _, folder = name.partition("=")
    model = MINI_FLOW if folder and key == MINI_FLOW.name else BASE_MODELS.get(key)
    if model is None:
        raise unknown_name("base model", key, BASE_MODELS)
    if not folder:
        return model
    check_folder(Path(folder), PARTS[model.family])
    if model.upscaler is not None:
        check_folder(Path(folder) / UPSCALER_DIR, PARTS["deepfloyd-if-upscaler"])
    if (mark := model.mark) is not None:
        check_mark(Path(folder), *mark, name=key)
    return replace(model, location=folder, revision=None)


def find_family(family: Family) -> type[LoadedModel]:
    """Import and return the class of a family."""
    module, _, attribute = FAMILIES[family].partition(":")
    found: type[LoadedModel] = getattr(importlib.import_module(module), attribute)
    return found


@functools.lru_cache(maxsize=8)
def make_text_reader(model: BaseModel) -> TextReader | None:
    """Return how much the text encoder of a base model reads; None where that is not known.

    Models of the hub have CLIP's own tokenizer, of which open_clip brings the vocabulary along, so
    that nothing is downloaded.
    """
    name = f"the text encoder of '{model.name}'"
    if model.flow is not None or model.upscaler is not None:
        return None  # Language models read more tokens than any prompt has.
    if not model.is_local:
        from open_clip import SimpleTokenizer  # noqa: PLC0415  (imports torch)

        clip = SimpleTokenizer()
        return TextReader(name, clip.context_length, lambda text: len(clip.encode(text)) + 2)
    try:
        tokenizer = find_family(model.family).load_tokenizer(model)
        n_tokens = int(tokenizer.model_max_length)
    except (UserError, OSError, ValueError, OverflowError, AttributeError):
        return None  # Loading the model says what is wrong with it.

    def count(text: str) -> int:
        return len(tokenizer(text, verbose=False).input_ids)

    # transformers has 10^30 where the files name no length.
    return TextReader(name, n_tokens, count) if n_tokens <= MAX_TEXT_TOKENS else None


def load_base_model(
    model: BaseModel,
    sampler: Sampler,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    quantization: Quantization = "none",
) -> LoadedModel:
    """Load a base model that samples as a protocol says.

    Raises:
        UserError: its files are not on this machine and the hub cannot be reached.
    """
    return find_family(model.family)(
        model, sampler, device=device, precision=precision, quantization=quantization
    )
