"""mini's encoders have the identities and the very bits that released scores were made with."""

import hashlib

import numpy as np
import pytest
import torch

from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.encoders.parts import PartsExtractor
from dreambench.encoders.registry import ENCODERS, SEGMENTERS, load_encoder
from dreambench.encoders.segmentation import load_segmenter
from dreambench.storage.images import load_image

PIXELS = "64-bicubic,crop64,norm(0.5,0.5,0.5,0.5,0.5,0.5)"
IDENTITIES = {
    "mini-vit": f"timm:mini-vit-two-view@546a9e5398f75939|resize{PIXELS}|cls|fp32",
    "mini-clip": f"open_clip:mini-clip@a3aab625299d9322|resize{PIXELS}|projected|fp32",
    "mini-vit-patches": (
        f"timm:mini-vit-two-view@546a9e5398f75939|resize{PIXELS}|patches:blocks2,4|fp32"
    ),
}
SEGMENTER = (
    "transformers:segformer@190446a88973a860|squash64-bicubic,norm(0.5,0.5,0.5,0.5,0.5,0.5)|logit>0"
)
TEXTS = (
    "a red dog on the beach", "a mug", "a dog wearing a hat and a scarf in the jungle at night",
)  # fmt: skip
# Of the photos as they are, and resized to 150 x 101. The makers' CPUs end MKL's sums with other
# bits (reports/benchmarks/processors.md).
BITS = {
    "AMD": {
        "mini-vit": ("65762e333c6b729e", "7786a6391a5a4a1c"),
        "mini-clip": ("82c4c28655de3a31", "edaabf473a421d18"),
        "mini-vit-patches": ("1824a0d1e044f8b1", "31004e4951c4a85f"),
        "texts": "d9ed024be9665e9d",
        "segmenter": "6baf252ed8f0fb55",
        "parts": "40787c4b364cc432",
    },
    "Intel": {
        "mini-vit": ("493d1cd40b27bbc0", "cc4d606c32b060ff"),
        "mini-clip": ("94c8c4fcab95a5f4", "d4d5065c6166011f"),
        "mini-vit-patches": ("d694f4d5297a0076", "27efc9cc772e2cae"),
        "texts": "79e38fa0dead8226",
        "segmenter": "f26b48327bb85d5a",
        "parts": "8b5d3abcbc27b3a1",
    },
}
MAKER = torch.cpu.get_capabilities().get("cpu_name", "").partition(" ")[0]
# The package limits torch to AVX2. A CPU without it, or an environment that says otherwise, adds up
# in another order, as other numbers of threads do: there only identities are compared.
same_machine = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX2" or MAKER not in BITS,
    reason="the bits are those of AVX2",
)


@pytest.fixture(scope="module")
def images():
    """The first photos of two of mini's subjects."""
    subjects = {subject.name: subject for subject in load_subjects(find_dataset("mini"))}
    return [load_image(subjects[name].photos[0]) for name in ("dog", "mug")]


@pytest.fixture(autouse=True)
def one_thread():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def name_bits(rows):
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()[:16]


def test_identity_of_the_second_clip():
    found = f"open_clip:mini-clip-2@09797ceddad0251e|resize{PIXELS}|projected|fp32"
    assert ENCODERS["mini-clip-2"].identity() == found


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_of_an_encoder(name):
    assert ENCODERS[name].identity() == IDENTITIES[name]


def test_identity_of_the_segmenter_and_of_parts():
    assert SEGMENTERS["mini-segmenter"].identity() == SEGMENTER
    parts = PartsExtractor(
        load_encoder("mini-vit", "dino"), load_encoder("mini-clip", "clip"),
        load_segmenter("mini-segmenter"), class_name="dog",
    )  # fmt: skip
    assert parts.identity == "|".join(
        ["parts v1", IDENTITIES["mini-vit"], IDENTITIES["mini-clip"], SEGMENTER]
    )


@same_machine
@pytest.mark.parametrize("name", IDENTITIES)
def test_bits_of_images(name, images):
    encoder = load_encoder(name, ENCODERS[name].role)
    large = [image.resize((150, 101)) for image in images]
    found = (name_bits(encoder.encode_images(images)), name_bits(encoder.encode_images(large)))
    assert found == BITS[MAKER][name]


@same_machine
def test_bits_of_texts():
    rows = load_encoder("mini-clip", "clip").encode_texts(TEXTS)
    assert name_bits(rows) == BITS[MAKER]["texts"]


@same_machine
def test_bits_of_the_segmenter_and_of_parts(images):
    segmenter = load_segmenter("mini-segmenter")
    pixels = np.stack([segmenter.spec.pixels.prepare(image) for image in images])
    assert name_bits(segmenter.find_logits(pixels, "dog")) == BITS[MAKER]["segmenter"]
    parts = PartsExtractor(
        load_encoder("mini-vit", "dino"), load_encoder("mini-clip", "clip"), segmenter,
        class_name="dog",
    )  # fmt: skip
    assert name_bits(parts.encode_images(images)) == BITS[MAKER]["parts"]
