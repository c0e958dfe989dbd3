"""Methods shown a photo while they generate: mini's adapter, its authors' layout, unCLIP."""

import numpy as np
import pytest
import torch
from conftest import invoke, refused_at_once
from diffusers.pipelines.deprecated.blip_diffusion.modeling_blip2 import Blip2QFormerModel
from small_pipelines import context, pixels, subjects, write_adapter_snapshot, write_unclip_folder
from transformers import BertTokenizer, Blip2Config

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.registry import find_base_model
from dreambench.config.recipe import Recipe, load_recipe
from dreambench.encoders.registry import load_encoder
from dreambench.errors import UserError
from dreambench.methods.image_prompting.adapters import (
    ADAPTERS,
    CellEncoder,
    find_adapter,
    make_mini_encoder,
)
from dreambench.methods.image_prompting.image_variation import (
    ImageVariation,
    ImageVariationSettings,
)
from dreambench.methods.image_prompting.ip_adapter import IPAdapter, IPAdapterSettings
from dreambench.methods.reference.class_only import ClassOnly
from dreambench.methods.registry import make_method
from dreambench.storage.images import load_image

PROMPTS = ["a {subject} on the beach", "a red {subject}", "a dog"]
SEEDS = [10, 11, 12]
MINI = IPAdapterSettings(adapter="ip-adapter-mini", scale=1.0, photos="one")


def load(method, subject, tmp_path):
    return method.load(subject, tmp_path)


@pytest.fixture(scope="module")
def adapter(shared_cache):
    return IPAdapter(MINI, context(shared_cache))


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    write_adapter_snapshot(tmp_path / "weights" / "ip-adapter-sd15")
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path / "weights"))


def test_a_photo_steers_what_is_drawn_and_the_plain_class_stays_the_base_models(
    adapter, shared_cache, tmp_path
):
    dog, mug = subjects("dog", "mug")
    images = pixels(load(adapter, dog, tmp_path).generate(PROMPTS, SEEDS))
    plain = ClassOnly(None, context(shared_cache)).load(dog, tmp_path)
    floor = pixels(plain.generate(PROMPTS, SEEDS))
    gaps = np.abs(images.astype(float) - floor).mean((1, 2, 3))
    assert gaps[:2].min() > 5
    assert gaps[2] < 0.5
    # The seed picks the photo, and the photo is another's: another picture.
    n_photos = len(dog.photos)
    assert n_photos > 1
    others = load(adapter, mug, tmp_path)
    assert not np.array_equal(images, pixels(others.generate(PROMPTS, SEEDS)))


def test_an_image_depends_on_its_prompt_and_seed_alone(adapter, tmp_path):
    (dog,) = subjects("dog")
    generator = load(adapter, dog, tmp_path)
    together = pixels(generator.generate(PROMPTS, SEEDS)).astype(int)
    for row in range(len(PROMPTS)):
        alone = pixels(generator.generate(PROMPTS[row : row + 1], SEEDS[row : row + 1]))[0]
        assert np.abs(together[row] - alone).max() <= 2


def test_shown_all_photos_it_makes_no_difference_which_the_seed_would_pick(shared_cache, tmp_path):
    (dog,) = subjects("dog")
    one = load(IPAdapter(MINI, context(shared_cache)), dog, tmp_path)
    settings = MINI.model_copy(update={"photos": "all"})
    of_all = load(IPAdapter(settings, context(shared_cache)), dog, tmp_path)
    (shown, hidden), n_photos = of_all.photos[0], len(dog.photos)
    assert len(of_all.photos) == 1
    assert len(one.photos) == n_photos == shown.shape[1] == hidden.shape[1]
    images = pixels(of_all.generate(PROMPTS, SEEDS)).astype(int)
    assert np.abs(images[:2] - pixels(one.generate(PROMPTS, SEEDS))[:2]).mean() > 2
    alone = pixels(of_all.generate(PROMPTS[1:2], SEEDS[1:2]))[0]
    assert np.abs(images[1] - alone).max() <= 2


def test_no_weight_on_the_photo_is_the_plain_class(shared_cache, tmp_path):
    (dog,) = subjects("dog")
    without = IPAdapter(MINI.model_copy(update={"scale": 0.0}), context(shared_cache))
    images = pixels(load(without, dog, tmp_path).generate(PROMPTS, SEEDS)).astype(int)
    plain = ClassOnly(None, context(shared_cache)).load(dog, tmp_path)
    assert np.abs(images - pixels(plain.generate(PROMPTS, SEEDS))).max() <= 2


def test_an_image_variation_reads_no_prompt(shared_cache, tmp_path):
    (dog,) = subjects("dog")
    recipe = load_recipe("image-variation")
    method = make_method(recipe, context(shared_cache))
    assert isinstance(method, ImageVariation)
    generator = load(method, dog, tmp_path)
    beach, red = pixels(generator.generate(PROMPTS[:2], [7, 7]))
    assert np.array_equal(beach, red)
    n_photos = len(dog.photos)
    first, again, second = pixels(generator.generate(PROMPTS[:1] * 3, [7, 7 + n_photos, 8]))
    assert not np.array_equal(first, again), "the same photo, other noise"
    assert not np.array_equal(first, second)


def test_the_cells_lie_in_the_space_of_the_whole_and_the_whole_is_clips_embedding(shared_cache):
    (dog,) = subjects("dog")
    photo = load_image(dog.photos[0])
    encoder, extractor = make_mini_encoder("cpu")
    with torch.inference_mode():
        found = encoder(extractor(photo, return_tensors="pt").pixel_values)
    tokens = found.hidden_states[-2][0].numpy()
    assert tokens.shape == (5, 192)
    lengths = np.linalg.norm(tokens, axis=1)
    assert np.allclose(lengths, 192**0.5, atol=1e-3)
    whole = load_encoder("mini-clip", "clip").encode_images([photo])[0]
    assert np.abs(tokens[0] / 192**0.5 - whole).max() < 1e-5
    assert isinstance(encoder, CellEncoder)


def test_an_adapter_in_its_authors_layout_is_loaded_by_diffusers(
    snapshot, other_folder, shared_cache, tmp_path
):
    (dog,) = subjects("dog")
    base = find_base_model(f"sd15={other_folder}")
    settings = IPAdapterSettings(adapter="ip-adapter-sd15", scale=0.6, photos="one")
    method = IPAdapter(settings, context(shared_cache, base_model=base))
    images = pixels(load(method, dog, tmp_path).generate(PROMPTS, SEEDS))
    plain = ClassOnly(None, context(shared_cache, base_model=base)).load(dog, tmp_path)
    floor = pixels(plain.generate(PROMPTS, SEEDS)).astype(int)
    assert not np.array_equal(images[:2], floor[:2])
    assert np.abs(images[2] - floor[2]).max() <= 2
    varied = ImageVariation(
        ImageVariationSettings(adapter="ip-adapter-sd15", scale=1.0, noise_level=0),
        context(shared_cache, base_model=base),
    )
    beach, red = pixels(load(varied, dog, tmp_path).generate(PROMPTS[:2], [7, 7]))
    assert np.array_equal(beach, red)


def test_adapters_that_are_not_here_say_which_files_to_download(
    other_folder, shared_cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    base = find_base_model(f"sd15={other_folder}")
    settings = IPAdapterSettings(adapter="ip-adapter-sd15", scale=0.6, photos="one")
    with pytest.raises(UserError) as caught:
        IPAdapter(settings, context(shared_cache, base_model=base))
    assert caught.value.code == "missing-weights"
    hint = str(caught.value.hint)
    assert "models/ip-adapter_sd15.safetensors" in hint
    assert "models/image_encoder/model.safetensors" in hint
    assert str(tmp_path / "ip-adapter-sd15") in hint


@pytest.mark.parametrize("file", ["models/ip-adapter_sd15", "models/image_encoder/model"])
def test_a_damaged_file_of_an_adapter_is_named(
    other_folder, shared_cache, tmp_path, monkeypatch, file
):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    write_adapter_snapshot(tmp_path / "ip-adapter-sd15")
    path = tmp_path / "ip-adapter-sd15" / f"{file}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    settings = IPAdapterSettings(adapter="ip-adapter-sd15", scale=0.6, photos="one")
    base = find_base_model(f"sd15={other_folder}")
    with pytest.raises(UserError) as caught:
        IPAdapter(settings, context(shared_cache, base_model=base))
    assert caught.value.problem.startswith(f"{path} is cut off")
    assert "hub" not in str(caught.value)


def test_adapters_belong_to_base_models():
    assert {adapter.base_model for adapter in ADAPTERS.values()} <= set(BASE_MODELS)
    with pytest.raises(UserError, match="'mini'") as caught:
        find_adapter("ip-adapter-sdxl", "mini")
    assert caught.value.code == "unknown-name"
    with pytest.raises(UserError, match="no table for the base model 'sd21'"):
        load_recipe("ip-adapter").settings_for("sd21")


def test_unclip_draws_from_the_embedding_and_the_plain_class_from_words(shared_cache, tmp_path):
    write_unclip_folder(tmp_path / "unclip")
    base = find_base_model(f"sd21-unclip={tmp_path / 'unclip'}")
    tables = {"sd21-unclip": load_recipe("image-variation").settings_for("sd21-unclip")}
    recipe = Recipe(name="x", method="image-variation", title="x", source="x", tables=tables)
    method = make_method(recipe, context(shared_cache, base_model=base))
    dog, mug = subjects("dog", "mug")
    generator = load(method, dog, tmp_path)
    beach, red = pixels(generator.generate(PROMPTS[:2], [7, 7]))
    assert np.array_equal(beach, red)
    other = pixels(load(method, mug, tmp_path).generate(PROMPTS[:1], [7]))[0]
    assert not np.array_equal(beach, other)
    dogs, mugs = pixels(generator.generate(["a dog", "a mug"], [9, 9]))
    assert not np.array_equal(dogs, mugs)


def test_blip_diffusion_is_not_here_as_long_as_its_class_does_not_run(tmp_path):
    assert "blip-diffusion" in invoke("list", "methods").stdout
    line = refused_at_once("plan", "--method", "blip-diffusion", "--protocol", "mini")
    assert "invert_attention_mask" in line
    # Where this no longer fails, it can be a row.
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "dog"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    small = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
    }  # fmt: skip
    reader = Blip2QFormerModel(
        Blip2Config(
            vision_config={**small, "image_size": 28, "patch_size": 14, "hidden_act": "quick_gelu"},
            qformer_config={**small, "cross_attention_frequency": 1, "encoder_hidden_size": 8},
            num_query_tokens=2, tokenizer=str(tmp_path),
        )
    )  # fmt: skip
    with pytest.raises(AttributeError, match=r"invert_attention_mask|get_head_mask"):
        reader(image_input=torch.zeros(1, 3, 28, 28), text_input=["dog"], return_dict=False)
