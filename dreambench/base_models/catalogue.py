"""The base models that are known by name: where they are, and facts of them. Imports no torch.

Counts are pinned and not taken from empty weights on the meta device (accelerate's
`init_empty_weights`): `plan` and `list` need them before a model's config is on this machine, and
without torch; `python benchmarks/full_size.py --count` counts them that way.
"""

from __future__ import annotations

from dataclasses import replace

from dreambench.base_models.folder import INDEX
from dreambench.base_models.spec import TRANSFORMER_FILE, BaseModel
from dreambench.config.sampler import FLOW, SamplerSettings
from dreambench.storage.shipped import PACKAGE_DIR

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
_SD21 = BaseModel(
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
)
# Steps and guidance of flow models are those of their hub pages' examples.
_FLUX2_KLEIN = BaseModel(
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
    n_offloaded_parameters=4_022_468_096,
    adapted_shapes=_FLUX2_SHAPES,
    adapted_block=((3072, 27648, 1), (12288, 3072, 1)),
    activation_bytes=36_516_271_112,
    checkpointed_bytes=3_648_082_952,
)
# Distilled to be told its guidance.
_FLUX_DEV = BaseModel(
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
    n_offloaded_parameters=4_762_310_656,
    adapted_shapes=_FLUX_SHAPES,
    adapted_block=((3072, 3072, 8), (3072, 12288, 2), (12288, 3072, 2)),
    activation_bytes=71_501_075_468,
    checkpointed_bytes=4_960_744_456,
)
_QWEN_IMAGE = BaseModel(
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
    n_offloaded_parameters=8_292_166_656,
    adapted_shapes=((3072, 3072, 240),),
    adapted_block=((3072, 3072, 4),),
    activation_bytes=73_909_412_868,
    checkpointed_bytes=4_643_769_864,
)
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
        # A small cascade of the shape of deepfloyd-if below.
        BaseModel(
            "mini-pixel",
            str(PACKAGE_DIR / "mini" / "weights" / "pixel"),
            family="deepfloyd-if",
            licence="apache-2.0",
            size_px=64,
            upscaler=("mini-pixel's stage II", "", 669_574),
            n_denoiser_parameters=1_988_270,
            n_other_parameters=1_059_206,
            n_text_parameters=389_632,
            n_offloaded_parameters=389_632,
            adapted_shapes=((48, 48, 20), (72, 72, 24), (128, 48, 10), (128, 72, 12)),
            adapted_block=((128, 48, 1),),
            activation_bytes=14_018_360,
            checkpointed_bytes=8_505_592,
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
        _SD21,
        # Fine-tuned from sd21 to take an image's CLIP embedding; its encoder counts as other.
        replace(
            _SD21,
            name="sd21-unclip",
            location="stabilityai/stable-diffusion-2-1-unclip",
            revision="e99f66a92bdcd1b0fb0d4b6a9b81b3b37d8bea44",
            family="unclip",
            n_download_bytes=7_750_000_000,
            n_denoiser_parameters=870_173_124,
            n_other_parameters=1_056_118_503,
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
        _FLUX2_KLEIN,
        # Distilled from the former to a few steps without guidance.
        replace(
            _FLUX2_KLEIN,
            name="flux2-klein",
            location="black-forest-labs/FLUX.2-klein-4B",
            revision="5e67da950fce4a097bc150c22958a05716994cea",
            flow=SamplerSettings(scheduler=FLOW, n_steps=4, guidance_scale=1.0),
            is_distilled=True,
            mark=(INDEX, "is_distilled", True),
        ),
        _FLUX_DEV,
        replace(
            _FLUX_DEV,
            name="flux-schnell",
            location="black-forest-labs/FLUX.1-schnell",
            revision="741f7c3ce8b383c54771c7003378a50191e9efe9",
            licence="apache-2.0",
            flow=SamplerSettings(scheduler=FLOW, n_steps=4, guidance_scale=0.0),
            mark=("transformer/config.json", "guidance_embeds", False),
            n_denoiser_parameters=11_891_178_560,
            activation_bytes=71_501_049_864,
            checkpointed_bytes=4_960_718_856,
        ),
        replace(
            _FLUX_DEV,
            name="flux-kontext",
            location="black-forest-labs/FLUX.1-Kontext-dev",
            revision="af58063aa431f4d2bbc11ae46f57451d4416a170",
            family="flux-kontext",
            flow=SamplerSettings(scheduler=FLOW, n_steps=28, guidance_scale=2.5),
            adapted_shapes=((3072, 3072, 266), (3072, 12288, 76), (12288, 3072, 38)),
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
            n_offloaded_parameters=4_762_310_656,
            adapted_shapes=((1536, 1536, 191),),
            adapted_block=((1536, 1536, 8),),
            activation_bytes=19_730_916_380,
            checkpointed_bytes=1_451_113_744,
        ),
        _QWEN_IMAGE,
        # The same networks, trained further to edit photos.
        replace(
            _QWEN_IMAGE,
            name="qwen-image-edit",
            location="Qwen/Qwen-Image-Edit-2511",
            revision="6f3ccc0b56e431dc6a0c2b2039706d7d26f22cb9",
            family="qwen-image-edit",
            flow=SamplerSettings(scheduler=FLOW, n_steps=40, guidance_scale=4.0),
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
            n_offloaded_parameters=4_762_310_656,
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
    n_offloaded_parameters=794_048,
    adapted_shapes=((256, 256, 8), (256, 2304, 8), (1024, 256, 8)),
    adapted_block=((256, 2304, 1), (1024, 256, 1)),
    activation_bytes=25_747_976,
    checkpointed_bytes=4_999_944,
)
TRAINED_HERE = {MINI_FLOW.name: MINI_FLOW}
"""Trained by `mini.training.flow_model`: a base model once its weights are part of the package, and
before that as `NAME=FOLDER`."""
BASE_MODELS |= {name: model for name, model in TRAINED_HERE.items() if model.is_local}
