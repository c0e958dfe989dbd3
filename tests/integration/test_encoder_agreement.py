"""Networks of real size, with random weights, give what transformers gives with the same."""

import shutil

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from conftest import REAL_PHOTOS

from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.encoders.registry import ENCODERS, make_encoder
from dreambench.encoders.weights import building
from dreambench.errors import UserError
from dreambench.storage.images import load_image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Digests of weights are kept in a cache; not in the user's."""
    monkeypatch.setenv("DREAMBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def shake(model):
    """Draws every weight, so that no bias is zero and no norm is one."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point and value.ndim:
                value.normal_("norm" in name and name.endswith("weight"), 0.02)
    return model.eval()


def some_photos():
    """Real photos where they are, else mini's enlarged."""
    if REAL_PHOTOS.is_dir():
        return [load_image(REAL_PHOTOS / name / "00.jpg") for name in ("dog", "can", "vase")]
    subjects = load_subjects(find_dataset("mini"))[:3]
    return [load_image(subject.photos[0]).resize((300, 260)) for subject in subjects]


def relative_gap(ours, theirs):
    return float(np.linalg.norm(ours - theirs, axis=1).max())


SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
VITS = {
    "dino-vits16": lambda: transformers.ViTModel(
        transformers.ViTConfig(**SMALL, layer_norm_eps=1e-6), add_pooling_layer=False
    ),
    "dino-vits8": lambda: transformers.ViTModel(
        transformers.ViTConfig(**SMALL, patch_size=8, layer_norm_eps=1e-6), add_pooling_layer=False
    ),
    # At 224 px, so that no two ways to resample its places come in.
    "dinov2-vits14": lambda: transformers.Dinov2Model(
        transformers.Dinov2Config(
            hidden_size=384, num_attention_heads=6, patch_size=14, image_size=224,
            layer_norm_eps=1e-6,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VITS)
def test_dino_agrees_with_transformers_given_the_same_weights(name, tmp_path, monkeypatch):
    reference = shake(VITS[name]())
    reference.save_pretrained(tmp_path / name)
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    encoder = make_encoder(ENCODERS[name])
    images = some_photos()
    pixels = torch.stack([torch.from_numpy(encoder.spec.pixels.prepare(i)) for i in images])
    with torch.inference_mode():
        theirs = reference(pixels).last_hidden_state[:, 0]
        theirs = torch.nn.functional.normalize(theirs, dim=-1).numpy()
    assert relative_gap(encoder.encode_images(images), theirs) < 1e-5


CLIPS = {
    "clip-vit-b-32": {"text": {}, "vision": {"patch_size": 32}, "projection_dim": 512},
    "clip-vit-l-14": {
        "text": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "vision": {
            "patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096,
            "num_hidden_layers": 24, "num_attention_heads": 16,
        },
        "projection_dim": 768,
    },
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", CLIPS)
def test_clip_agrees_with_transformers_given_the_same_weights(name, tmp_path, monkeypatch):
    parts = CLIPS[name]
    config = transformers.CLIPConfig(
        text_config={**parts["text"], "projection_dim": parts["projection_dim"]},
        vision_config={**parts["vision"], "projection_dim": parts["projection_dim"]},
        projection_dim=parts["projection_dim"],
    )
    with building():
        reference = transformers.CLIPModel(config)
    shake(reference).save_pretrained(tmp_path / name)
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    encoder = make_encoder(ENCODERS[name])
    images, texts = some_photos(), ["a dog in the jungle", "a purple backpack", "x"]
    pixels = torch.stack([torch.from_numpy(encoder.spec.pixels.prepare(i)) for i in images])
    tokens = encoder.tokenizer(texts)
    with torch.inference_mode():
        found = reference(pixel_values=pixels, input_ids=tokens)
    assert relative_gap(encoder.encode_images(images), found.image_embeds.numpy()) < 1e-5
    assert relative_gap(encoder.encode_texts(texts), found.text_embeds.numpy()) < 1e-5


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory):
    """A small SentencePiece model with SigLIP's special tokens, made here."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "text.txt").write_text("a dog in the jungle\na purple backpack on the beach\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "spiece"), vocab_size=24,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    return folder / "spiece.model"


def test_siglip_agrees_with_transformers_given_the_same_weights(
    tmp_path, monkeypatch, sentencepiece_model
):
    spec = ENCODERS["siglip-vit-b-16"]
    reference = shake(transformers.SiglipModel(transformers.SiglipConfig()))
    reference.save_pretrained(tmp_path / spec.name)
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"spiece\.model"):
        make_encoder(spec)
    shutil.copy(sentencepiece_model, tmp_path / spec.name)
    encoder = make_encoder(spec)
    images, texts = some_photos(), ["A dog, in the jungle!", "a purple backpack"]
    pixels = torch.stack([torch.from_numpy(encoder.spec.pixels.prepare(i)) for i in images])
    plain = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
    rows = [[*plain.encode(text), 1] for text in ("a dog in the jungle", "a purple backpack")]
    tokens = torch.tensor([row + [1] * (64 - len(row)) for row in rows])
    assert torch.equal(encoder.tokenizer(texts), tokens)
    with torch.inference_mode():
        found = reference(pixel_values=pixels, input_ids=tokens)
    assert relative_gap(encoder.encode_images(images), found.image_embeds.numpy()) < 1e-5
    assert relative_gap(encoder.encode_texts(texts), found.text_embeds.numpy()) < 1e-5
