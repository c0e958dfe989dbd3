"""Digests of what is shipped: a change of one changes which published numbers it stands for.

A comment or a shorter spelling in a TOML file changes none. Whoever changes one on purpose raises
the protocol's version, or says in CHANGELOG.md which rows can no longer be compared.
"""

import pytest

from dreambench.artifacts.plan import make_plan
from dreambench.base_models.registry import find_base_model
from dreambench.config.protocol import list_protocols, load_protocol
from dreambench.config.recipe import list_recipes, load_recipe
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import digest_subjects, load_subjects
from dreambench.scoring.tools import prepare_encoders

PROTOCOLS = {
    "applications": "6768668fc535b34d",
    "dreambench": "7c8d03100460b877",
    "mini": "5f389387ec2a5f11",
    "mini-full": "ae8f42e8ef661a08",
    "mini-pairs": "450f4ceaecf386fd",
    "pairs": "21ec0efad5c54277",
}
RECIPES = {
    "class-only": {
        "mini": "80db3e2098f04f1a",
        "mini-pixel": "80db3e2098f04f1a",
        "sd15": "80db3e2098f04f1a",
        "sd21": "80db3e2098f04f1a",
        "sdxl": "80db3e2098f04f1a",
        "flux2-klein-base": "80db3e2098f04f1a",
        "flux2-klein": "80db3e2098f04f1a",
        "flux-dev": "80db3e2098f04f1a",
        "flux-schnell": "80db3e2098f04f1a",
        "flux-kontext": "80db3e2098f04f1a",
        "sd35-medium": "80db3e2098f04f1a",
        "qwen-image": "80db3e2098f04f1a",
        "qwen-image-edit": "80db3e2098f04f1a",
        "omnigen": "80db3e2098f04f1a",
        "deepfloyd-if": "80db3e2098f04f1a",
    },
    "clip-guidance": {
        "mini": "5964127edf3f26a1",
        "sd15": "baeffc80b96d81b9",
    },
    "composition": {
        "mini": "9d07a181a2ca6f26",
        "sd15": "d139f8f47fa4ca7b",
        "sd21": "d139f8f47fa4ca7b",
        "sdxl": "d139f8f47fa4ca7b",
    },
    "copy-reference": {
        "mini": "4b1956dff5eb55c1",
        "mini-pixel": "4b1956dff5eb55c1",
        "sd15": "4b1956dff5eb55c1",
        "sd21": "4b1956dff5eb55c1",
        "sd21-unclip": "4b1956dff5eb55c1",
        "sdxl": "4b1956dff5eb55c1",
        "flux2-klein-base": "4b1956dff5eb55c1",
        "flux2-klein": "4b1956dff5eb55c1",
        "flux-dev": "4b1956dff5eb55c1",
        "flux-schnell": "4b1956dff5eb55c1",
        "flux-kontext": "4b1956dff5eb55c1",
        "sd35-medium": "4b1956dff5eb55c1",
        "qwen-image": "4b1956dff5eb55c1",
        "qwen-image-edit": "4b1956dff5eb55c1",
        "omnigen": "4b1956dff5eb55c1",
        "deepfloyd-if": "4b1956dff5eb55c1",
    },
    "custom-diffusion": {
        "mini": "fad4a7fb55dbf8a0",
        "sd15": "016e919130917e2a",
        "sd21": "016e919130917e2a",
        "sdxl": "5a1f18d2f3eb9c08",
    },
    "cut-and-paste": {
        "mini": "3cb8adf814b300ad",
        "sd15": "3cb8adf814b300ad",
        "sd21": "3cb8adf814b300ad",
        "sdxl": "3cb8adf814b300ad",
    },
    "ddim-inversion": {
        "mini": "928ccf6757b890c8",
        "sd15": "4b6372024dee3334",
        "sd21": "4b6372024dee3334",
        "sdxl": "4b6372024dee3334",
    },
    "dreambooth": {
        "mini": "25dfa54f48da8004",
        "mini-pixel": "146131e8178dbc31",
        "sd15": "c81c385f1b3d46fc",
        "sd21": "c81c385f1b3d46fc",
        "sdxl": "77d7f7bfd8c4bf43",
        "sd35-medium": "6cc6131ff99b18b7",
        "flux2-klein-base": "77d7f7bfd8c4bf43",
        "flux2-klein": "77d7f7bfd8c4bf43",
        "flux-dev": "77d7f7bfd8c4bf43",
        "flux-schnell": "77d7f7bfd8c4bf43",
        "flux-kontext": "77d7f7bfd8c4bf43",
        "qwen-image": "77d7f7bfd8c4bf43",
        "qwen-image-edit": "77d7f7bfd8c4bf43",
        "deepfloyd-if": "d92b6ab1b78fe048",
    },
    "dreambooth-1-photo": {
        "mini": "fcd7d2f55466fc71",
        "sd15": "567701f8885c0fde",
    },
    "dreambooth-2-photos": {
        "mini": "1d2c620b4c2e6e9b",
        "sd15": "99629bded43f5ee4",
    },
    "dreambooth-3-photos": {
        "mini": "9b96f4445887c0c4",
        "sd15": "36798c73ebb12872",
    },
    "dreambooth-4-photos": {
        "mini": "9c2d972fde90aee3",
        "sd15": "6d02e401e2e0f597",
    },
    "dreambooth-boft": {
        "mini": "abda5bb56e4ad635",
        "mini-pixel": "291ed8c56c981141",
        "sd15": "2e3e93d5d77d06e5",
        "sd21": "2e3e93d5d77d06e5",
        "sdxl": "5bd4cb4f3df4cbc3",
        "sd35-medium": "ee8f612628e857c7",
        "flux2-klein-base": "a17f0e894d24cd8b",
        "flux2-klein": "a17f0e894d24cd8b",
        "flux-dev": "a17f0e894d24cd8b",
        "flux-schnell": "a17f0e894d24cd8b",
        "flux-kontext": "a17f0e894d24cd8b",
        "qwen-image": "a17f0e894d24cd8b",
        "qwen-image-edit": "a17f0e894d24cd8b",
        "deepfloyd-if": "374c3820410eda4e",
    },
    "dreambooth-dora": {
        "mini": "ae85bd07a0413512",
        "mini-pixel": "ae85bd07a0413512",
        "sd15": "e643e73500a5663d",
        "sd21": "e643e73500a5663d",
        "sdxl": "0eba07f961c34269",
        "sd35-medium": "d2fd81c77f54ea99",
        "flux2-klein-base": "2cd1dd0c2fe3bbc8",
        "flux2-klein": "2cd1dd0c2fe3bbc8",
        "flux-dev": "2cd1dd0c2fe3bbc8",
        "flux-schnell": "2cd1dd0c2fe3bbc8",
        "flux-kontext": "2cd1dd0c2fe3bbc8",
        "qwen-image": "2cd1dd0c2fe3bbc8",
        "qwen-image-edit": "2cd1dd0c2fe3bbc8",
        "deepfloyd-if": "be3b08698581e72d",
    },
    "dreambooth-hra": {
        "mini": "19ec9a29f7fa6e5d",
        "mini-pixel": "19ec9a29f7fa6e5d",
        "sd15": "fba8de1527c3f290",
        "sd21": "fba8de1527c3f290",
        "sdxl": "1f10d7f23f238bdf",
        "sd35-medium": "28cce0dea6563d4a",
        "flux2-klein-base": "41ed6cc28408978f",
        "flux2-klein": "41ed6cc28408978f",
        "flux-dev": "41ed6cc28408978f",
        "flux-schnell": "41ed6cc28408978f",
        "flux-kontext": "41ed6cc28408978f",
        "qwen-image": "41ed6cc28408978f",
        "qwen-image-edit": "41ed6cc28408978f",
        "deepfloyd-if": "93e062a658d0cb96",
    },
    "dreambooth-loha": {
        "mini": "b660cbe0feb97225",
        "mini-pixel": "b660cbe0feb97225",
        "sd15": "5acb1c7d1dbe03eb",
        "sd21": "5acb1c7d1dbe03eb",
        "sdxl": "76fae25770341a7a",
        "sd35-medium": "afd7cf645c9dc904",
        "flux2-klein-base": "94a0006f101c97ed",
        "flux2-klein": "94a0006f101c97ed",
        "flux-dev": "94a0006f101c97ed",
        "flux-schnell": "94a0006f101c97ed",
        "flux-kontext": "94a0006f101c97ed",
        "qwen-image": "94a0006f101c97ed",
        "qwen-image-edit": "94a0006f101c97ed",
        "deepfloyd-if": "0d5f91fc75dc1599",
    },
    "dreambooth-lokr": {
        "mini": "3db6da94e70a431e",
        "mini-pixel": "3db6da94e70a431e",
        "sd15": "d609ef008554fdcd",
        "sd21": "d609ef008554fdcd",
        "sdxl": "ef98ce80e8e6cbcb",
        "sd35-medium": "7848f9f72bfae1a6",
        "flux2-klein-base": "ca90c89c0a3a8927",
        "flux2-klein": "ca90c89c0a3a8927",
        "flux-dev": "ca90c89c0a3a8927",
        "flux-schnell": "ca90c89c0a3a8927",
        "flux-kontext": "ca90c89c0a3a8927",
        "qwen-image": "ca90c89c0a3a8927",
        "qwen-image-edit": "ca90c89c0a3a8927",
        "deepfloyd-if": "9e4cd4d862a3369b",
    },
    "dreambooth-lora": {
        "mini": "812b486780e41a9c",
        "mini-pixel": "812b486780e41a9c",
        "sd15": "196f54cbe1a1f526",
        "sd21": "196f54cbe1a1f526",
        "sdxl": "12f2311384ba12ad",
        "sd35-medium": "dc1f77e92a80a772",
        "flux2-klein-base": "a1028a37ffe97cce",
        "flux2-klein": "a1028a37ffe97cce",
        "flux-dev": "9bd0535291b28355",
        "flux-schnell": "9bd0535291b28355",
        "flux-kontext": "9bd0535291b28355",
        "qwen-image": "601788f4345fd229",
        "qwen-image-edit": "601788f4345fd229",
        "deepfloyd-if": "89841399f7014833",
    },
    "dreambooth-no-noun": {
        "mini": "0d661a6af8704258",
        "sd15": "84d29918f7b1ab6d",
    },
    "dreambooth-no-prior": {
        "mini": "374153f24a270fca",
        "mini-pixel": "b8efdaae8c084225",
        "sd15": "0449e2631d505a74",
        "sd21": "0449e2631d505a74",
        "sdxl": "2bd13ca82e8620fc",
        "sd35-medium": "f5699e08da9ba794",
        "flux2-klein-base": "2bd13ca82e8620fc",
        "flux2-klein": "2bd13ca82e8620fc",
        "flux-dev": "2bd13ca82e8620fc",
        "flux-schnell": "2bd13ca82e8620fc",
        "flux-kontext": "2bd13ca82e8620fc",
        "qwen-image": "2bd13ca82e8620fc",
        "qwen-image-edit": "2bd13ca82e8620fc",
        "deepfloyd-if": "18141438df64b17f",
    },
    "dreambooth-oft": {
        "mini": "ad2387798c5385fc",
        "mini-pixel": "042f5a15344eb0dd",
        "sd15": "7f53e8832c5e9c80",
        "sd21": "7f53e8832c5e9c80",
        "sdxl": "bbd9400ca58e088c",
        "sd35-medium": "0ce93b7253872fc2",
        "flux2-klein-base": "0072c1b36ba330b2",
        "flux2-klein": "0072c1b36ba330b2",
        "flux-dev": "0072c1b36ba330b2",
        "flux-schnell": "0072c1b36ba330b2",
        "flux-kontext": "0072c1b36ba330b2",
        "qwen-image": "0072c1b36ba330b2",
        "qwen-image-edit": "0072c1b36ba330b2",
        "deepfloyd-if": "e4dc289fae8f1a2f",
    },
    "dreambooth-text-encoder": {
        "mini": "d675ec7f29443a8d",
        "sd15": "1825a90adce64a89",
        "sd21": "1825a90adce64a89",
        "sdxl": "dd0440fca837e8c0",
    },
    "dreambooth-vera": {
        "mini": "c4068f16f221006f",
        "mini-pixel": "c4068f16f221006f",
        "sd15": "ddd5f72ba3835cdb",
        "sd21": "ddd5f72ba3835cdb",
        "sdxl": "dad584180e0db3fd",
        "sd35-medium": "7b67b38c9c034008",
        "flux2-klein-base": "a5cc11b5dd7b60e3",
        "flux2-klein": "a5cc11b5dd7b60e3",
        "flux-dev": "a5cc11b5dd7b60e3",
        "flux-schnell": "a5cc11b5dd7b60e3",
        "flux-kontext": "a5cc11b5dd7b60e3",
        "qwen-image": "a5cc11b5dd7b60e3",
        "qwen-image-edit": "a5cc11b5dd7b60e3",
        "deepfloyd-if": "97ed174e2a190aa2",
    },
    "dreambooth-wrong-noun": {
        "mini": "1f2e4c9219c13b7c",
        "sd15": "469335abec641f4a",
    },
    "flux-kontext": {
        "flux-kontext": "45649e53cf105a91",
    },
    "flux2-klein": {
        "flux2-klein": "da9c50b9afaf3267",
        "flux2-klein-base": "da9c50b9afaf3267",
    },
    "image-variation": {
        "mini": "ba711f81a5e98559",
        "sd15": "31b838bd3f82474b",
        "sdxl": "35eba95b284cd72b",
        "sd21-unclip": "6e28915d0f8fefc2",
    },
    "inpainting": {
        "mini": "cfe3ed3412a4a9af",
        "sd15": "cfe3ed3412a4a9af",
        "sd21": "cfe3ed3412a4a9af",
        "sdxl": "cfe3ed3412a4a9af",
    },
    "ip-adapter": {
        "mini": "fc743617d133bffc",
        "sd15": "a51994c337ca2708",
        "sdxl": "a92aa5840649e30f",
    },
    "ip-adapter-plus": {
        "sd15": "5234e6398d1e0834",
    },
    "ominicontrol": {
        "flux-schnell": "59566b7ba6f20468",
    },
    "omnigen": {
        "omnigen": "7abd6f1e4f882563",
    },
    "photo-prompting": {
        "flux-kontext": "45649e53cf105a91",
        "flux2-klein": "da9c50b9afaf3267",
        "flux2-klein-base": "da9c50b9afaf3267",
        "qwen-image-edit": "0756a85f1c4b0335",
        "omnigen": "7abd6f1e4f882563",
    },
    "qwen-image-edit": {
        "qwen-image-edit": "0756a85f1c4b0335",
    },
    "real-images": {
        "mini": "3711896e1abc63eb",
        "mini-pixel": "3711896e1abc63eb",
        "sd15": "fa6a7c11e84237af",
        "sd21": "fa6a7c11e84237af",
        "sd21-unclip": "fa6a7c11e84237af",
        "sdxl": "fa6a7c11e84237af",
    },
    "reconstruction": {
        "mini": "bc3ec3d3dbc7ec38",
        "sd15": "f9184a68ce97137d",
        "sd21": "f9184a68ce97137d",
        "sdxl": "f9184a68ce97137d",
    },
    "sdedit": {
        "mini": "bea4cd1c85b716e5",
        "sd15": "8536f9b3a24709ff",
        "sd21": "8536f9b3a24709ff",
        "sdxl": "8536f9b3a24709ff",
    },
    "textual-inversion": {
        "mini": "c2e2c14ba14b290c",
        "sd15": "cb945629f6c96a7d",
        "sd21": "cb945629f6c96a7d",
        "sdxl": "6e0bf0f84d14304a",
    },
}
BASE_MODEL = "mini:folder@ef0b3cb9094ed257"
DATA = "ccfd86aa5e8e1d69"
PLAN = "d6c2e2e7421db283"
ENCODERS = {
    "dino": "timm:mini-vit-two-view@546a9e5398f75939"
    "|resize64-bicubic,crop64,norm(0.5,0.5,0.5,0.5,0.5,0.5)|cls|fp32",
    "clip": "open_clip:mini-clip@a3aab625299d9322"
    "|resize64-bicubic,crop64,norm(0.5,0.5,0.5,0.5,0.5,0.5)|projected|fp32",
    "perceptual": "timm:mini-vit-two-view@546a9e5398f75939"
    "|resize64-bicubic,crop64,norm(0.5,0.5,0.5,0.5,0.5,0.5)|patches:blocks2,4|fp32",
}


def test_protocols_have_their_published_digests():
    assert {name: load_protocol(name).digest() for name in list_protocols()} == PROTOCOLS


@pytest.mark.parametrize("name", sorted({*list_recipes(), *RECIPES}))
def test_recipes_have_their_published_digests(name):
    recipe = load_recipe(name)
    assert {base: recipe.digest(base) for base in recipe.tables} == RECIPES[name]


def test_mini_is_made_of_the_published_base_model_photos_and_plan():
    protocol = load_protocol("mini")
    subjects = load_subjects(find_dataset(protocol.dataset), names=protocol.subjects or None)
    assert find_base_model("mini").identity() == BASE_MODEL
    assert digest_subjects(subjects) == DATA
    assert make_plan(protocol, subjects, batch_size=16).digest() == PLAN


def test_encoders_of_mini_have_their_published_identities():
    assert prepare_encoders(load_protocol("mini")) == ENCODERS
