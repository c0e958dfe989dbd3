"""Methods that put two subjects into one picture: what they learn of each, and generate."""

import numpy as np
import pytest
import torch
from conftest import invoke, refused
from pairs import TINY_PAIRS
from safetensors.torch import load_file
from small_pipelines import NUMBERS, context, pixels, subjects

import dreambench
from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.config.protocol import list_all, load_protocol
from dreambench.config.recipe import load_recipe
from dreambench.datasets.subjects import make_pair
from dreambench.methods.base import NoSettings
from dreambench.methods.editing.composition import CutAndPaste, remove_subject
from dreambench.methods.editing.masks import load_masks
from dreambench.methods.finetuning.custom_diffusion import (
    SECOND_WORD,
    WORD,
    CustomDiffusion,
    CustomDiffusionSettings,
)
from dreambench.methods.finetuning.dreambooth import DreamBooth, DreamBoothSettings
from dreambench.methods.finetuning.dreambooth_lora import DreamBoothLora, DreamBoothLoraSettings
from dreambench.methods.reference.class_only import ClassOnly
from dreambench.methods.reference.copy_reference import CopyReference
from dreambench.methods.registry import find_method, list_shipped
from dreambench.mini.real_images import RealImages, RealImagesSettings
from dreambench.preflight.cost_estimate import make_estimate

PROMPTS = ["a {first} and a {second} on the beach", "a red {first}, next to it is a {second}"]
SEEDS = [3, 4]
CUSTOM = {
    **{key: NUMBERS[key] for key in CustomDiffusionSettings.model_fields if key in NUMBERS},
    "n_views": 0, "flip": False,
}  # fmt: skip
TRAINED = {
    "dreambooth": (DreamBooth, DreamBoothSettings(**NUMBERS)),
    "lora": (DreamBoothLora, DreamBoothLoraSettings(**NUMBERS, rank=2)),
    "custom-diffusion": (CustomDiffusion, CustomDiffusionSettings(**CUSTOM)),
}


@pytest.fixture
def pair():
    return make_pair(subjects("dog", "mug"))


@pytest.mark.parametrize("name", TRAINED)
def test_both_are_trained_each_under_its_own_word(name, pair, shared_cache, tmp_path):
    kind, settings = TRAINED[name]
    method = kind(settings, context(shared_cache))
    batches, heard = [], set()
    errors, encode = method.model.squared_errors, method.model.encode_prompts

    def compute(latents, text, *, noise):
        batches.append(len(latents))
        return errors(latents, text, noise=noise)

    method.model.squared_errors = compute
    method.model.encode_prompts = lambda texts: heard.update(texts) or encode(texts)
    method.fit(pair, tmp_path, seed=5)
    n_photos = settings.batch_size
    assert set(batches) == {4 * n_photos}  # Photos of each, and class images of each.
    generator = method.load(pair, tmp_path)
    first, second = generator.subject_phrase
    assert first.endswith(" dog") and second.endswith(" mug")
    assert first.split()[0] != second.split()[0]
    for words in (first, second):
        assert any(text.endswith(f"a {words}") for text in heard)
    images = pixels(generator.generate(PROMPTS, SEEDS))
    again = kind(settings, context(shared_cache)).load(pair, tmp_path)
    assert np.array_equal(images, pixels(again.generate(PROMPTS, SEEDS)))
    plain = ClassOnly(NoSettings(), context(shared_cache)).load(pair, tmp_path)
    assert not np.array_equal(images, pixels(plain.generate(PROMPTS, SEEDS)))


def test_both_new_words_are_learned_and_saved_by_their_names(pair, shared_cache, tmp_path):
    method = CustomDiffusion(CustomDiffusionSettings(**CUSTOM), context(shared_cache))
    method.fit(pair, tmp_path, seed=5)
    learned = load_file(tmp_path / "learned_embeds.safetensors")
    assert set(learned) == {WORD, SECOND_WORD}
    start = method.word.find_vectors(method.identifier)[""][0]
    assert not torch.equal(learned[WORD][0], start)
    assert not torch.equal(learned[WORD], learned[SECOND_WORD])
    method.load(pair, tmp_path)
    held = method.word.places[""].vectors
    assert torch.equal(held, torch.cat([learned[WORD], learned[SECOND_WORD]]).to(held))


def test_both_are_pasted_side_by_side_with_their_own_colours(pair, shared_cache, tmp_path):
    generator = CutAndPaste(NoSettings(), context(shared_cache)).load(pair, tmp_path)
    image, _ = pixels(generator.generate(PROMPTS, SEEDS))
    (scene,) = pixels(generator.model.sample(["on the beach"], SEEDS[:1]))
    changed = (image != scene).any(-1)
    sides = changed[:, :32], changed[:, 32:]
    assert all(0.05 < side.mean() < 0.6 for side in sides)
    photos = [np.asarray(photo) for photo in generator.photos]
    masks = load_masks(pair, 64)
    turn, first = divmod(SEEDS[0], 5)
    for index, side in ((first, np.s_[:, :32]), (5 + turn % 5, np.s_[:, 32:])):
        own = photos[index][masks[index]].mean(0)
        assert np.abs(image[side][changed[side]].mean(0) - own).max() < 25


@pytest.mark.parametrize(
    ("prompt", "scene"),
    [
        ("a {first} and a {second} with a mountain in the background",
         "with a mountain in the background"),
        ("a cube shaped {first} and a cube shaped {second}", ""),
        ("a {first} wearing a red hat, next to it is a {second}", ""),
        ("a red {first}, next to it is a {second}", ""),
    ],
)  # fmt: skip
def test_a_prompt_without_its_two_subjects_is_the_scene(prompt, scene):
    assert remove_subject(prompt) == scene


def test_copies_are_both_photos_side_by_side(pair, shared_cache, tmp_path):
    generator = CopyReference(NoSettings(), context(shared_cache)).load(pair, tmp_path)
    images = pixels(generator.generate(PROMPTS, SEEDS))
    assert images.shape == (2, 64, 64, 3)
    assert not np.array_equal(*images)
    left, right = images[0][:, :32], images[0][:, 32:]
    assert np.abs(left.astype(int) - right).mean() > 10


def test_mini_draws_both_as_the_prompt_asks(pair, shared_cache, tmp_path):
    method = RealImages(RealImagesSettings(pictures="drawn"), context(shared_cache))
    images = pixels(method.load(pair, tmp_path).generate(PROMPTS, SEEDS))
    assert not np.array_equal(*images)
    photos = RealImages(RealImagesSettings(pictures="photos"), context(shared_cache))
    with pytest.raises(dreambench.UserError) as caught:
        photos.load(pair, tmp_path)
    assert caught.value.code == "unsupported-subject"


def test_each_method_says_how_many_it_takes():
    two = {name for name in list_shipped() if find_method(name).most_subjects == 2}
    assert two == {
        "dreambooth", "dreambooth-lora", "dreambooth-peft", "custom-diffusion", "composition",
        "cut-and-paste", "class-only", "copy-reference", "real-images",
    }  # fmt: skip


def test_two_subjects_are_twice_the_images_of_a_step():
    protocol = load_protocol("mini-pairs")
    pairs = list_all(protocol, protocol.find_dataset())
    recipe, base = load_recipe("dreambooth"), BASE_MODELS["mini"]
    two = make_estimate(protocol, recipe, base, pairs)
    one = make_estimate(load_protocol("mini"), recipe, base, list(pairs[0].each))
    assert two.n_optimizer_steps == 2 * one.n_optimizer_steps
    assert two.n_training_images == 4 * one.n_training_images
    assert two.n_class_images == 5 * 16


def test_a_run_trains_and_draws_pairs(shared_cache, tmp_path):
    (tmp_path / "own.toml").write_text(TINY_PAIRS)
    words = (
        "--protocol", tmp_path / "own.toml", "--out", tmp_path / "runs", "--cache", shared_cache,
        "--device", "cpu", "--subjects", "dog+mug",
    )  # fmt: skip
    invoke(
        "run", "--method", "dreambooth-lora", "--alongside", "composition", *words,
        "--set", "n_steps=3", "--set", "n_class_images=4",
    )  # fmt: skip
    made = {path.name for path in (tmp_path / "runs" / "own").iterdir()}
    assert len(made) == 2
    for name in made:
        found = dreambench.load_run(tmp_path / "runs" / "own" / name)
        assert found.summary.n_images == 2 and not found.summary.failures
    line = refused("run", "--method", "sdedit", *words)
    assert "'sdedit'" in line and "show 2" in line
