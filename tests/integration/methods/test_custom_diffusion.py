"""Custom Diffusion: what it trains and leaves alone, its views of a photo, what it saves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
from PIL import Image
from safetensors.torch import load_file
from small_pipelines import NUMBERS, PROMPTS, context, pixels, subjects

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.spec import DIFFUSION
from dreambench.config.recipe import load_recipe
from dreambench.methods.finetuning.custom_diffusion import (
    FAR,
    FILE,
    NEAR,
    CustomDiffusion,
    CustomDiffusionSettings,
    make_view,
    sample_view,
)
from dreambench.methods.finetuning.training import compute_losses
from dreambench.methods.generators import TextGenerator

OWN_NUMBERS = {
    key: value for key, value in NUMBERS.items() if key in CustomDiffusionSettings.model_fields
} | {"learning_rate": 1e-2, "n_views": 6, "flip": True}  # fmt: skip


def copy_weights(pipeline):
    return {
        name: {key: value.clone() for key, value in part.state_dict().items()}
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }


@pytest.mark.parametrize("where", ["mini", "other", "xl"])
def test_keys_values_and_the_word_change_and_nothing_else(where, base_of, shared_cache, tmp_path):
    settings = CustomDiffusionSettings(**OWN_NUMBERS)
    method = CustomDiffusion(settings, context(shared_cache, base_model=base_of[where]))
    before = copy_weights(method.model.pipeline)
    (mug,) = subjects("mug")
    method.fit(mug, tmp_path, seed=5)
    n_words = 0
    for name, state in copy_weights(method.model.pipeline).items():
        for key, value in state.items():
            old = before[name][key]
            if "token_embedding" in key:
                n_words += 1
                assert torch.equal(value[:-1], old[:-1])
                start = method.word.find_vectors(method.identifier)[
                    name.removeprefix("text_encoder")
                ]
                assert not torch.equal(value[-1:], start)
            elif name == "unet" and key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                assert not torch.equal(value, old), key
            else:
                assert torch.equal(value, old), key
    assert n_words == (2 if where == "xl" else 1)
    assert not any(p.requires_grad for p in method.model.pipeline.unet.parameters())


@pytest.mark.parametrize("where", ["mini", "other", "xl"])
def test_what_it_learned_is_saved_and_loads_again(where, base_of, shared_cache, tmp_path):
    base = base_of[where]
    settings = CustomDiffusionSettings(**OWN_NUMBERS)
    first = CustomDiffusion(settings, context(shared_cache, base_model=base))
    dog, mug = subjects("dog", "mug")
    for subject in (dog, mug):  # The second one must not start from the first one's.
        (tmp_path / subject.name).mkdir()
        first.fit(subject, tmp_path / subject.name, seed=5)
    words = {"learned_embeds.safetensors"} | (
        {"learned_embeds_2.safetensors"} if where == "xl" else set()
    )
    assert {path.name for path in (tmp_path / "mug").iterdir()} == {FILE, "losses.json", *words}
    images = pixels(first.load(mug, tmp_path / "mug").generate(PROMPTS, [1, 2, 3]))

    second = CustomDiffusion(settings, context(shared_cache, base_model=base))
    again = pixels(second.load(mug, tmp_path / "mug").generate(PROMPTS, [1, 2, 3]))
    assert np.array_equal(images, again)
    (tmp_path / "alone").mkdir()
    second.fit(mug, tmp_path / "alone", seed=5)
    for name in (FILE, *words):
        alone = (tmp_path / "alone" / name).read_bytes()
        assert alone == (tmp_path / "mug" / name).read_bytes()
    assert not np.array_equal(
        images, pixels(second.load(dog, tmp_path / "dog").generate(PROMPTS, [1, 2, 3]))
    )
    if where == "mini":
        kept = load_file(tmp_path / "mug" / FILE)
        n_kept = sum(value.numel() for value in kept.values()) + 192
        work = CustomDiffusion.count_work(settings, base)
        assert work.trained_parameters == n_kept
        assert work.saved_bytes == 4 * n_kept


def test_diffusers_processors_take_the_saved_weights(shared_cache, tmp_path):
    method = CustomDiffusion(CustomDiffusionSettings(**OWN_NUMBERS), context(shared_cache))
    (mug,) = subjects("mug")
    method.fit(mug, tmp_path, seed=5)
    images = pixels(method.load(mug, tmp_path).generate(PROMPTS, [1, 2, 3])).astype(int)
    model = method.context.load_base_model()
    plain = model.pipeline
    plain.load_textual_inversion(
        load_file(tmp_path / "learned_embeds.safetensors"), token=method.word.word
    )
    state = load_file(tmp_path / FILE)
    processors = {}
    for name, processor in plain.unet.attn_processors.items():
        own = {
            key.removeprefix(f"{name}."): value
            for key, value in state.items()
            if key.startswith(f"{name}.")
        }
        processors[name] = processor
        if own:
            shape = own["to_k_custom_diffusion.weight"].shape
            processors[name] = CustomDiffusionAttnProcessor2_0(
                train_q_out=False, hidden_size=shape[0], cross_attention_dim=shape[1]
            )
            processors[name].load_state_dict(own)
    assert sum(isinstance(p, torch.nn.Module) for p in processors.values()) == len(state) / 2
    plain.unet.set_attn_processor(processors)
    theirs = TextGenerator(model, subject_phrase="<new1> mug")
    found = pixels(theirs.generate(PROMPTS, [1, 2, 3])).astype(int)
    assert np.abs(images - found).max() <= 1


def test_a_step_learns_nothing_from_around_a_small_photo(shared_cache, tmp_path, monkeypatch):
    method = CustomDiffusion(CustomDiffusionSettings(**OWN_NUMBERS), context(shared_cache))
    caught = []

    def catch(_model, _settings, *, make_batch, **_others):
        caught.append(make_batch(torch.Generator().manual_seed(0)))
        return []

    monkeypatch.setattr("dreambench.methods.finetuning.custom_diffusion.train", catch)
    (mug,) = subjects("mug")
    method.fit(mug, tmp_path, seed=5)
    (batch,) = caught
    size = OWN_NUMBERS["batch_size"]
    assert batch.n_subject == size
    assert len(batch.latents) == len(batch.text.tensors["states"]) == 2 * size
    assert len(batch.weights) == size

    # A hole in one row's weights: the loss of that row does not feel what is there.
    weights = torch.ones_like(batch.weights)
    weights[0, :, :6] = 0
    outputs, predict = [], method.model.predict

    def watch(*words):
        outputs.append(predict(*words).detach().requires_grad_(True))
        return outputs[-1]

    def backward(weights):
        outputs.clear()
        weighted = replace(batch, weights=weights)
        losses = compute_losses(method.model, lambda _: weighted, torch.Generator().manual_seed(1))
        (losses["subject"] + losses["prior"]).backward()
        return losses, outputs[0].grad

    monkeypatch.setattr(method.model, "predict", watch)
    losses, gradient = backward(weights)
    assert not gradient[0, :, :6].any()
    assert gradient[0, :, 6:].any()
    assert gradient[1:].flatten(1).any(1).all()
    # Ten of sixteen lines carry the weight of all, and channels are summed, not averaged.
    plain, whole = backward(None)
    n_channels = batch.latents.shape[1]
    assert torch.allclose(gradient[0, :, 6:], n_channels * whole[0, :, 6:] * 16 / 10)
    assert torch.allclose(gradient[1:size], n_channels * whole[1:size])
    assert torch.allclose(gradient[size:], whole[size:])

    # The authors' loss (adobe-research/custom-diffusion, src/diffusers_training.py, which diffusers
    # has in examples/custom_diffusion/train_custom_diffusion.py) on the same draws.
    noise = torch.Generator().manual_seed(1)
    squared = method.model.squared_errors(batch.latents, batch.text, noise=noise)
    masked = (squared[:size] * weights).sum([1, 2, 3]) / weights.sum([1, 2, 3])
    assert torch.allclose(losses["subject"], masked.mean())
    assert torch.allclose(losses["prior"], squared[size:].mean())
    assert torch.allclose(losses["prior"], plain["prior"])


def test_a_view_is_the_photo_resized_with_its_inner_cells_valid():
    photo = Image.new("RGB", (64, 64), (250, 0, 0))
    small = make_view(photo, scale=0.5, corner=(0.5, 0.0), words="very small", cell_px=4)
    shown = np.asarray(small.image)
    assert shown.shape == (64, 64, 3)
    assert (shown[:32, 16:48] == (250, 0, 0)).all()
    assert (shown[32:] == 128).all()
    assert (shown[:, :16] == 128).all()
    assert small.valid.shape == (16, 16)
    assert small.valid.sum() == 6 * 6, "32 of 64 px are 8 cells, and those at the edge do not count"
    assert small.valid[1:7, 5:11].all()

    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    large = make_view(
        Image.fromarray(noise), scale=1.25, corner=(1.0, 1.0), words="close up", cell_px=4
    )
    assert large.image.size == (64, 64)
    assert large.valid.all()
    grown = Image.fromarray(noise).resize((80, 80), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(large.image), np.asarray(grown)[16:, 16:])


def test_words_tell_the_scale():
    rng = np.random.default_rng(3)
    photo = Image.new("RGB", (64, 64), (250, 0, 0))
    seen = set()
    for _ in range(200):
        view = sample_view(photo, flip=True, cell_px=4, rng=rng)
        assert view.valid.any()
        grey = (np.asarray(view.image) == 128).all(-1).mean()
        share = np.sqrt(1 - grey)  # Side of the photo in the view; 1 for a larger one, too.
        seen.add(view.words)
        if view.words in FAR:
            assert 0.38 < share < 0.62
        elif view.words in NEAR:
            assert share == 1
        else:
            assert 0.58 < share <= 1
    assert seen == {"", *FAR, *NEAR}


def test_texts_of_a_step_carry_the_words_and_the_new_one(shared_cache, tmp_path):
    method = CustomDiffusion(CustomDiffusionSettings(**OWN_NUMBERS), context(shared_cache))
    asked, encode = set(), method.model.encode_prompts
    method.model.encode_prompts = lambda texts: asked.update(texts) or encode(texts)
    (mug,) = subjects("mug")
    method.fit(mug, tmp_path, seed=5)
    assert "a mug" in asked
    assert asked - {"a mug"} <= {
        f"{words} photo of a <new1> mug".strip() for words in ("", *FAR, *NEAR)
    }
    assert len(asked) > 3


def test_without_views_the_photos_are_taken_as_they_are(shared_cache, tmp_path):
    numbers = OWN_NUMBERS | {"n_views": 0}
    method = CustomDiffusion(CustomDiffusionSettings(**numbers), context(shared_cache))
    (mug,) = subjects("mug")
    views = method._make_views(mug, seed=1)
    assert len(views) == len(mug.photos)
    assert all(view.valid.all() and not view.words for view in views)
    with Image.open(mug.photos[0]) as photo:
        assert np.array_equal(np.asarray(views[0].image), np.asarray(photo.convert("RGB")))


def test_its_recipe_has_numbers_for_every_unet_that_is_told_of_subjects_by_text():
    recipe = load_recipe("custom-diffusion")
    with_unet = {name for name, model in BASE_MODELS.items() if model.family in DIFFUSION}
    assert set(recipe.tables) == with_unet - {"sd21-unclip"}
    for name in recipe.tables:
        CustomDiffusionSettings.model_validate(recipe.settings_for(name))
