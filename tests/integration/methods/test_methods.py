"""Methods on real pipelines: mini's own, and another folder of Stable Diffusion's shape."""

import json
import shutil
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from safetensors.torch import load_file
from small_pipelines import NUMBERS, PROMPTS, SAMPLER, Heard, context, pixels, subjects
from transformers import CLIPTokenizer

from dreambench.base_models import BASE_MODELS, load_base_model
from dreambench.base_models.lora import unload_lora
from dreambench.config.recipe import Recipe, load_recipe
from dreambench.errors import UserError
from dreambench.methods.finetuning import training
from dreambench.methods.finetuning.dreambooth import DreamBooth, DreamBoothSettings
from dreambench.methods.finetuning.dreambooth_lora import DreamBoothLora, DreamBoothLoraSettings
from dreambench.methods.finetuning.identifier import choose_identifier, find_rare_tokens
from dreambench.methods.finetuning.textual_inversion import (
    TextualInversion,
    TextualInversionSettings,
)
from dreambench.methods.generators import TextGenerator
from dreambench.methods.reference.class_only import ClassOnly
from dreambench.methods.registry import find_method, list_shipped, make_method
from dreambench.storage.files import sha256_file
from dreambench.storage.images import load_image
from dreambench.storage.sums import read_sums


@pytest.mark.parametrize("train_text_encoder", [False, True])
@pytest.mark.parametrize("where", ["mini", "other", "xl"])
def test_what_was_trained_is_saved_and_loads_again(
    where, train_text_encoder, base_of, shared_cache, tmp_path
):
    base = base_of[where]
    settings = DreamBoothSettings(**NUMBERS | {"train_text_encoder": train_text_encoder})
    (dog,) = subjects("dog")
    first = DreamBooth(settings, context(shared_cache, base_model=base))
    first.fit(dog, tmp_path, seed=5)
    kept = {path.name for path in tmp_path.iterdir()}
    wanted = {"unet.safetensors", "losses.json"}
    if train_text_encoder:
        wanted.add("text_encoder.safetensors")
        wanted |= {"text_encoder_2.safetensors"} if where == "xl" else set()
    assert kept == wanted
    untouched = {key: value.half() for key, value in first._initial["unet"]().items()}
    tuned = load_file(tmp_path / "unet.safetensors")
    n_changed = sum(not torch.equal(untouched[key], tuned[key]) for key in tuned)
    assert n_changed > 0.5 * len(tuned), "full fine-tuning changes layers everywhere"

    images = pixels(first.load(dog, tmp_path).generate(PROMPTS, [1, 2, 3]))
    second = DreamBooth(settings, context(shared_cache, base_model=base))
    again = pixels(second.load(dog, tmp_path).generate(PROMPTS, [1, 2, 3]))
    assert np.array_equal(images, again)
    plain = ClassOnly(None, context(shared_cache, base_model=base)).load(dog, tmp_path)
    assert not np.array_equal(images, pixels(plain.generate(PROMPTS, [1, 2, 3])))


@pytest.mark.parametrize("train_text_encoder", [False, True])
@pytest.mark.parametrize("where", ["mini", "other", "xl"])
def test_adapters_are_saved_as_diffusers_reads_them(
    where, train_text_encoder, base_of, shared_cache, tmp_path
):
    base = base_of[where]
    numbers = NUMBERS | {"train_text_encoder": train_text_encoder, "rank": 3}
    settings = DreamBoothLoraSettings(**numbers | {"learning_rate": 1e-2})
    first = DreamBoothLora(settings, context(shared_cache, base_model=base))
    dog, mug = subjects("dog", "mug")
    for subject in (mug, dog, mug):  # The second one must not start from the first one's.
        out_dir = tmp_path / subject.name
        kept = (
            (out_dir / "pytorch_lora_weights.safetensors").read_bytes() if out_dir.is_dir() else b""
        )
        out_dir.mkdir(exist_ok=True)
        first.fit(subject, out_dir, seed=5)
    assert (out_dir / "pytorch_lora_weights.safetensors").read_bytes() == kept
    assert {path.name for path in out_dir.iterdir()} == {
        "pytorch_lora_weights.safetensors", "losses.json"
    }  # fmt: skip
    adapters = load_file(out_dir / "pytorch_lora_weights.safetensors")
    n_unet = sum(value.numel() for key, value in adapters.items() if key.startswith("unet."))
    assert {key.split(".")[0] for key in adapters} == {"unet"} | (
        {"text_encoder"} if train_text_encoder else set()
    ) | ({"text_encoder_2"} if train_text_encoder and where == "xl" else set())
    if where == "mini":
        assert DreamBoothLora.count_work(settings, base).trained_parameters == n_unet
    # SDXL leaves the last layer of its text encoders out, which so learns nothing.
    assert np.mean([bool(value.any()) for value in adapters.values()]) > 0.85

    images = pixels(first.load(mug, out_dir).generate(PROMPTS, [1, 2, 3]))
    plain = context(shared_cache, base_model=base).load_base_model()
    plain.pipeline.load_lora_weights(out_dir)
    phrase = f"{first.identifier} mug"
    theirs = TextGenerator(plain, subject_phrase=phrase)
    assert np.array_equal(images, pixels(theirs.generate(PROMPTS, [1, 2, 3])))
    plain.pipeline.unload_lora_weights()
    assert not np.array_equal(images, pixels(theirs.generate(PROMPTS, [1, 2, 3])))


TRAINED = [
    "dreambooth", "dreambooth-no-prior", "dreambooth-text-encoder", "dreambooth-lora",
    "textual-inversion", "custom-diffusion",
]  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_training_ends_with_the_same_bits_each_time(name, shared_cache, tmp_path, request):
    # Its own batch and two threads: threads share the work of large batches alone, and the order
    # in which they come must not show in the sums.
    n_threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(n_threads))
    torch.set_num_threads(2)
    recipe = load_recipe(name)
    recipe.tables["mini"]["n_steps"] = 3
    if recipe.tables["mini"].get("n_class_images"):
        recipe.tables["mini"]["n_class_images"] = 4
    (dog,) = subjects("dog")
    method = make_method(recipe, context(shared_cache))
    found = []
    for time in range(2):
        folder = tmp_path / str(time)
        folder.mkdir()
        method.fit(dog, folder, seed=5)
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert found[0] == found[1]


@pytest.fixture
def small_context(base_of, shared_cache):
    """The context of a base model with mini's numbers and hardly any network."""
    return context(shared_cache, base_model=base_of["small"])


def test_the_step_in_which_a_loss_became_infinite_is_named(small_context, tmp_path, monkeypatch):
    recipe = load_recipe("dreambooth-no-prior")
    recipe.tables["mini"] |= {"n_steps": 2 * training.STEPS_PER_CHECK + 5, "batch_size": 1}
    (dog,) = subjects("dog")
    method = make_method(recipe, small_context)
    steps = []

    def compute(*args):
        steps.append(len(steps) + 1)
        losses = compute_losses(*args)
        return losses if len(steps) < 13 else losses | {"subject": losses["subject"] / 0}

    compute_losses = training.compute_losses
    monkeypatch.setattr(training, "compute_losses", compute)
    with pytest.raises(UserError, match="became infinite in step 13"):
        method.fit(dog, tmp_path, seed=5)
    # It ends where losses are read next, and nothing is left that could be taken for weights.
    assert len(steps) == 20 and not list(tmp_path.iterdir())


WORD_NUMBERS = {
    key: value for key, value in NUMBERS.items() if key in TextualInversionSettings.model_fields
} | {"initial": "class-noun", "learning_rate": 1e-2}  # fmt: skip


@pytest.mark.parametrize("n_vectors", [1, 3])
@pytest.mark.parametrize("where", ["mini", "other", "xl"])
def test_a_new_word_is_saved_as_diffusers_reads_it(
    where, n_vectors, base_of, shared_cache, tmp_path
):
    base = base_of[where]
    settings = TextualInversionSettings(**WORD_NUMBERS | {"n_vectors": n_vectors})
    first = TextualInversion(settings, context(shared_cache, base_model=base))
    before = {
        name: {key: value.clone() for key, value in part.state_dict().items()}
        for name, part in first.model.pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    dog, mug = subjects("dog", "mug")
    for subject in (dog, mug):
        (tmp_path / subject.name).mkdir()
        first.fit(subject, tmp_path / subject.name, seed=5)
    suffixes = ["", "_2"] if where == "xl" else [""]
    files = {
        suffix: tmp_path / "mug" / f"learned_embeds{suffix}.safetensors" for suffix in suffixes
    }
    assert {path.name for path in (tmp_path / "mug").iterdir()} == {
        "losses.json", *(file.name for file in files.values())
    }  # fmt: skip
    # Nothing but the rows of the new word has changed, and these start from the noun's.
    for suffix, file in files.items():
        vectors = load_file(file)["<subject>"]
        place = first.word.places[suffix]
        assert vectors.shape == (n_vectors, place.table.embedding_dim)
        start = first.word.find_vectors("mug")[suffix]
        assert not torch.equal(vectors, start)
        assert (vectors - start).abs().max() < 0.1
        assert len(place.rows) == n_vectors
    for name, state in before.items():
        after = first.model.pipeline.components[name].state_dict()
        assert state.keys() == after.keys()
        for key, value in state.items():
            kept = after[key][:-n_vectors] if "token_embedding" in key else after[key]
            assert torch.equal(kept, value[:-n_vectors] if "token_embedding" in key else value)

    images = pixels(first.load(mug, tmp_path / "mug").generate(PROMPTS, [1, 2, 3]))
    alone = TextualInversion(settings, context(shared_cache, base_model=base))
    (tmp_path / "alone").mkdir()
    alone.fit(mug, tmp_path / "alone", seed=5)
    for file in files.values():
        again = load_file(tmp_path / "alone" / file.name)["<subject>"]
        assert torch.equal(again, load_file(file)["<subject>"])
    plain = context(shared_cache, base_model=base).load_base_model()
    for suffix, file in files.items():
        encoder = getattr(plain.pipeline, f"text_encoder{suffix}")
        plain.pipeline.load_textual_inversion(
            load_file(file), token="<subject>", text_encoder=encoder,
            tokenizer=getattr(plain.pipeline, f"tokenizer{suffix}"),
        )  # fmt: skip
    theirs = TextGenerator(plain, subject_phrase="<subject>")
    assert np.array_equal(images, pixels(theirs.generate(PROMPTS, [1, 2, 3])))


def test_adapters_leave_the_base_model_alone(shared_cache, tmp_path):
    settings = DreamBoothLoraSettings(**NUMBERS | {"rank": 2})
    method = DreamBoothLora(settings, context(shared_cache))
    before = {key: value.clone() for key, value in method.model.pipeline.unet.state_dict().items()}
    (dog,) = subjects("dog")
    method.fit(dog, tmp_path, seed=1)
    unload_lora(method.model)
    after = method.model.pipeline.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_8_bit_adam_is_close_to_adam_and_its_state_is_a_quarter(shared_cache, tmp_path):
    (dog,) = subjects("dog")
    losses, sizes = [], []
    make = training.make_optimizer
    for optimizer in ("adamw", "adamw-8bit"):
        settings = DreamBoothSettings(**NUMBERS | {"optimizer": optimizer, "n_steps": 4})
        kept = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                training,
                "make_optimizer",
                lambda *words, kept=kept: kept.append(make(*words)) or kept[0],
            )
            DreamBooth(settings, context(shared_cache)).fit(dog, tmp_path, seed=1)
        losses.append(
            [row["subject"] for row in json.loads((tmp_path / "losses.json").read_text())]
        )
        sizes.append(
            sum(
                value.nbytes
                for state in kept[0].state.values()
                for value in state.values()
                if torch.is_tensor(value)
            )
        )
    assert losses[1] == pytest.approx(losses[0], rel=0.2)
    assert losses[1] != losses[0]
    assert sizes[1] < 0.35 * sizes[0]


def test_8_bit_adam_without_its_package_is_one_line(shared_cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    settings = DreamBoothSettings(**NUMBERS | {"optimizer": "adamw-8bit"})
    (dog,) = subjects("dog")
    with pytest.raises(UserError) as caught:
        DreamBooth(settings, context(shared_cache)).fit(dog, tmp_path, seed=1)
    assert caught.value.code == "missing-package"
    assert "dreambench[small-gpu]" in caught.value.hint


def test_each_subject_starts_from_the_base_model(small_context, tmp_path):
    dog, mug = subjects("dog", "mug")
    settings = DreamBoothSettings(**NUMBERS)
    both = DreamBooth(settings, small_context)
    for name, subject in (("dog", dog), ("mug", mug)):
        (tmp_path / name).mkdir()
        both.fit(subject, tmp_path / name, seed=1)
    (tmp_path / "alone").mkdir()
    DreamBooth(settings, small_context).fit(mug, tmp_path / "alone", seed=1)
    alone = (tmp_path / "alone" / "unet.safetensors").read_bytes()
    assert (tmp_path / "mug" / "unet.safetensors").read_bytes() == alone


def test_training_learns_its_photos(shared_cache, tmp_path):
    # The loss of single steps is noise; the mean over the end against the start is not.
    settings = DreamBoothSettings(**NUMBERS | {"n_steps": 50, "prior_weight": 0.0, "batch_size": 4})
    (mug,) = subjects("mug")
    DreamBooth(settings, context(shared_cache)).fit(mug, tmp_path, seed=1)
    losses = [row["subject"] for row in json.loads((tmp_path / "losses.json").read_text())]
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:20])


def test_class_images_are_made_once_for_subjects_and_runs(base_of, tmp_path):
    dog, dog2 = subjects("dog", "dog2")
    settings = DreamBoothSettings(**NUMBERS | {"n_steps": 1})
    where = context(tmp_path / "cache", base_model=base_of["small"])
    method = DreamBooth(settings, where)
    for subject in (dog, dog2):
        (tmp_path / subject.name).mkdir()
        method.fit(subject, tmp_path / subject.name, seed=1)
    files = sorted(tmp_path.glob("cache/class-images/*/*.png"))
    assert len(files) == NUMBERS["n_class_images"]
    # They are kept by what their bits depend on, and not only by what was asked for.
    key = json.loads((files[0].parent / "key.json").read_text())
    assert key["compute"]["threads"] == torch.get_num_threads()
    assert key["compute"]["cpu"] == torch.backends.cpu.get_cpu_capability()
    assert {"torch", "diffusers", "transformers"} <= set(key["packages"])
    assert key["sampler"]["options"]["clip_sample"] is False
    made = [path.stat().st_mtime_ns for path in files]
    heard = Heard()
    later = DreamBooth(settings, replace(where, progress=heard))
    (tmp_path / "later").mkdir()
    encode, n_encoded = later.model.encode_images, []
    later.model.encode_images = lambda images: n_encoded.append(len(images)) or encode(images)
    later.fit(dog, tmp_path / "later", seed=1)
    assert n_encoded == [len(dog.photos)]  # Class images were encoded once, too.
    assert [path.stat().st_mtime_ns for path in files] == made
    assert [call for call in heard.calls if call[0].startswith("class images")] == [
        ("class images of dog", 4, 4)
    ]
    assert (tmp_path / "later" / "unet.safetensors").read_bytes() == (
        tmp_path / "dog" / "unet.safetensors"
    ).read_bytes()
    (encoded,) = files[0].parent.glob("*.safetensors")
    encoded.write_bytes(b"damaged")
    again = DreamBooth(settings, where)
    again.fit(dog, tmp_path / "later", seed=1)
    assert read_sums(encoded.parent)[encoded.name] == sha256_file(encoded)
    assert (tmp_path / "later" / "unet.safetensors").read_bytes() == (
        tmp_path / "dog" / "unet.safetensors"
    ).read_bytes()
    # Who shares the cache cannot make others write elsewhere.
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(files[0].parent)
    files[0].parent.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "last").mkdir()
    with pytest.raises(UserError) as caught:
        DreamBooth(settings, where).fit(dog, tmp_path / "last", seed=1)
    assert caught.value.code == "unsafe-path"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_images_depend_on_their_own_prompt_and_seed_alone(shared_cache, tmp_path):
    (dog,) = subjects("dog")
    generator = ClassOnly(None, context(shared_cache)).load(dog, tmp_path)
    together = pixels(generator.generate(PROMPTS, [1, 2, 3])).astype(int)
    alone = pixels(
        [generator.generate([p], [s])[0] for p, s in zip(PROMPTS, [1, 2, 3], strict=True)]
    )
    # Sums may run in another order in another batch: a rounding step, never another picture.
    assert np.abs(together - alone).max() <= 2
    other = pixels(generator.generate(PROMPTS[:1], [9]))
    assert np.abs(other.astype(int) - together[:1]).mean() > 2


class Crowded:
    """A pipeline with memory for `room` images at once."""

    def __init__(self, pipeline, room):
        self.pipeline, self.room, self.sizes = pipeline, room, []
        self.device, self.image_processor = pipeline.device, pipeline.image_processor

    def __call__(self, prompt, **options):
        self.sizes.append(len(prompt))
        if len(prompt) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.pipeline(prompt=prompt, **options)


def test_out_of_memory_halves_the_batch_and_then_says_so(small_context, tmp_path):
    (dog,) = subjects("dog")
    generator = ClassOnly(None, small_context).load(dog, tmp_path)
    pipeline = generator.model.pipeline
    prompts, seeds = (PROMPTS * 2)[:5], [1, 2, 3, 4, 5]
    whole = pixels(generator.generate(prompts, seeds)).astype(int)
    generator.model.pipeline = crowded = Crowded(pipeline, 2)
    assert np.abs(pixels(generator.generate(prompts, seeds)) - whole).max() <= 2
    assert crowded.sizes == [5, 2, 2, 1]
    # Another generator on the same base model knows what fits.
    crowded.sizes.clear()
    other = TextGenerator(generator.model, subject_phrase="dog")
    assert len(other.generate(prompts, seeds)) == 5
    assert crowded.sizes == [2, 2, 1]
    generator.model.pipeline = Crowded(pipeline, 0)
    with pytest.raises(UserError, match="64 px") as caught:
        generator.generate(prompts, seeds)
    assert caught.value.code == "out-of-memory"
    assert "--precision bf16" in caught.value.hint


@pytest.mark.parametrize("where", ["mini", "xl"])
def test_no_memory_to_decode_a_batch_loses_no_step(
    where, base_of, shared_cache, tmp_path, monkeypatch
):
    (dog,) = subjects("dog")
    generator = ClassOnly(None, context(shared_cache, base_model=base_of[where])).load(
        dog, tmp_path
    )
    pipeline = generator.model.pipeline
    whole = pixels(generator.generate(PROMPTS, [1, 2, 3])).astype(int)
    decode, sizes, steps = pipeline.vae._decode, [], []

    def crowded(latents, *args, **options):
        sizes.append(len(latents))
        if len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(latents, *args, **options)

    monkeypatch.setattr(pipeline.vae, "_decode", crowded)
    pipeline.unet.register_forward_pre_hook(lambda *_: steps.append(1))
    for wanted in ([3, 1, 1, 1], [1, 1, 1]):
        sizes.clear()
        steps.clear()
        again = pixels(generator.generate(PROMPTS, [1, 2, 3])).astype(int)
        assert np.abs(again - whole).max() <= 2
        assert (sizes, len(steps)) == (wanted, SAMPLER.n_steps)


def test_copies_are_the_photos(shared_cache, tmp_path):
    (mug,) = subjects("mug")
    method = find_method("copy-reference")(None, context(shared_cache))
    copies = pixels(method.load(mug, tmp_path).generate(PROMPTS * 4, list(range(12))))
    photos = [np.asarray(load_image(path)) for path in mug.photos]
    picked = [next(i for i, p in enumerate(photos) if np.array_equal(p, c)) for c in copies]
    assert len(set(picked)) > 1, "the seed picks the photo"


def test_identifier_is_rare_and_one_token():
    tokenizer = CLIPTokenizer.from_pretrained(BASE_MODELS["mini"].location, subfolder="tokenizer")
    tokens = find_rare_tokens(tokenizer)
    assert len(tokens) >= 20
    for word in tokens:
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1
    # Pinned: another word is another prompt, and another number for every recipe with "auto".
    assert choose_identifier(tokenizer, "auto") == "gdl"
    assert "gdl" in tokens
    assert choose_identifier(tokenizer, "sks") == "sks"


class NoRareWords:
    """A tokenizer whose vocabulary is all English."""

    def get_vocab(self):
        return {"dog</w>": 0, "cat</w>": 1}


def test_no_rare_token_is_one_line():
    with pytest.raises(UserError) as caught:
        choose_identifier(NoRareWords(), "auto")
    assert caught.value.code == "no-rare-token"


def test_each_wrong_number_of_a_recipe_is_one_line(shared_cache):
    tables = {"mini": {**NUMBERS, "learning_rat": 1.0, "n_steps": 0}}
    recipe = Recipe(name="x", method="dreambooth", title="t", source="s", tables=tables)
    with pytest.raises(UserError) as caught:
        make_method(recipe, context(shared_cache))
    lines = str(caught.value).splitlines()
    assert caught.value.code == "invalid-value"
    assert len(lines) == 2
    assert all("'x'" in line and "[mini]" in line for line in lines)
    for fact in ("'learning_rat'; did you mean 'learning_rate'?", "n_steps: must be at least 1"):
        assert fact in str(caught.value)


def test_every_method_has_a_baseline():
    recipes = [path.read_text() for path in (REPOSITORY / "baselines").glob("*.toml")]
    assert set(list_shipped()) <= {tomllib.loads(recipe).get("method") for recipe in recipes}


def test_shipped_base_model_is_small_and_plain():
    folder = Path(BASE_MODELS["mini"].location)
    weights = [path for path in folder.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in weights) <= 80e6
    assert {path.suffix for path in weights} <= {".safetensors", ".json", ".txt"}


def test_hub_model_that_cannot_be_fetched_names_the_folder_to_download():
    with pytest.raises(UserError) as caught:
        load_base_model(BASE_MODELS["sd15"], SAMPLER)
    assert caught.value.code == "hub-unreachable"
    assert "--base-model sd15=FOLDER" in caught.value.hint


@pytest.mark.parametrize(
    ("class_noun", "phrase"), [("correct", "gdl dog"), ("none", "gdl"), ("wrong", "gdl teapot")]
)
def test_class_noun_of_table_4_is_what_is_trained_and_generated(
    small_context, class_noun, phrase, tmp_path
):
    settings = NUMBERS | {"class_noun": class_noun, "identifier": "gdl", "n_steps": 1}
    if class_noun == "none":
        settings |= {"prior_weight": 0.0}
    method = DreamBooth(DreamBoothSettings(**settings), small_context)
    heard = []
    encode = method.model.encode_prompts
    method.model.encode_prompts = lambda texts: heard.append(list(texts)) or encode(texts)
    (dog,) = subjects("dog")
    method.fit(dog, tmp_path, seed=1)
    assert f"a {phrase}" in [texts[0] for texts in heard]
    assert method.load(dog, tmp_path).subject_phrase == phrase
    (mug,) = subjects("mug")
    if class_noun == "wrong":
        assert method.load(mug, tmp_path).subject_phrase == "gdl dog"


@pytest.mark.parametrize(("n_photos", "n_seen"), [(2, 2), (0, 5), (9, 5)])
def test_number_of_photos_of_table_5_is_kept(small_context, n_photos, n_seen, tmp_path):
    (dog,) = subjects("dog")
    numbers = NUMBERS | {"n_photos": n_photos, "n_steps": 1, "prior_weight": 0.0}
    method = DreamBooth(DreamBoothSettings(**numbers), small_context)
    seen, encode = [], method.model.encode_images
    method.model.encode_images = lambda images: seen.append(images) or encode(images)
    method.fit(dog, tmp_path, seed=1)
    assert [len(images) for images in seen] == [n_seen]


def test_gradient_checkpointing_changes_no_weight(shared_cache, tmp_path):
    (dog,) = subjects("dog")
    kept = []
    for checkpointing in (False, True):
        numbers = NUMBERS | {"gradient_checkpointing": checkpointing, "n_steps": 2}
        method = DreamBooth(DreamBoothSettings(**numbers), context(shared_cache))
        method.fit(dog, tmp_path, seed=1)
        kept.append(load_file(tmp_path / "unet.safetensors"))
    gaps = [float((kept[0][k].float() - kept[1][k].float()).abs().max()) for k in kept[0]]
    assert max(gaps) < 1e-3
