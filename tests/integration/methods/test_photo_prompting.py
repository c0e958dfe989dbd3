"""Photo prompting: which photos and words a model is shown, and whole runs on small folders."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import invoke, refused_at_once
from small_flows import PROTOCOL, SIDE_PX, WRITERS, write_flux2_folder
from small_pipelines import context, pixels, subjects

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.registry import find_base_model
from dreambench.base_models.spec import IN_CONTEXT
from dreambench.config.protocol import load_protocol
from dreambench.config.recipe import load_recipe
from dreambench.config.sampler import Sampler
from dreambench.datasets.subjects import list_subjects
from dreambench.errors import UserError
from dreambench.methods.image_prompting.photo_prompting import (
    PhotoPrompting,
    PhotoPromptingSettings,
)
from dreambench.methods.registry import read_settings
from dreambench.preflight.cost_estimate import make_estimate
from dreambench.storage.images import load_image

SAMPLER = Sampler(scheduler="flow-euler", n_steps=1, guidance_scale=1.0, size_px=SIDE_PX)
ROWS = [
    ("flux-kontext", "flux-kontext"), ("flux2-klein", "flux2-klein-base"),
    ("qwen-image-edit", "qwen-image-edit"), ("omnigen", "omnigen"),
]  # fmt: skip
PROMPTS = ["a {subject} on the beach", "a {subject} on the beach", "a dog", "a red {subject}"]
SEEDS = [10, 11, 12, 14]


@pytest.fixture(scope="module")
def klein(tmp_path_factory):
    folder = tmp_path_factory.mktemp("klein") / "pipeline"
    write_flux2_folder(folder)
    return find_base_model(f"flux2-klein-base={folder}")


def prompt_with(base_model, cache_dir, who, **changes):
    words = {"subject": "{class}", "instruction": "This {class}: {prompt}", "max_photos": 2}
    method = PhotoPrompting(
        PhotoPromptingSettings(**words | changes),
        replace(context(cache_dir, base_model=base_model), sampler=SAMPLER),
    )
    return method, method.load(who, cache_dir)


def test_the_seed_picks_where_to_begin_among_more_photos_than_are_shown(klein, tmp_path):
    (dog,) = subjects("dog")
    method, generator = prompt_with(klein, tmp_path, dog)
    photos = [load_image(path) for path in dog.photos]
    n_photos = len(photos)
    assert n_photos > 3
    seeds = [n_photos, 1, 7, n_photos - 1]
    found = pixels(generator.generate(PROMPTS, seeds))

    def draw(row, *places):
        text = "a red dog" if row == 3 else "a dog on the beach"
        shown = [photos[place] for place in places]
        texts = [f"This dog: {text}"]
        return pixels(method.model.sample_in_context(texts, seeds[row : row + 1], photos=shown))[0]

    for row, places in ((0, (0, 1)), (1, (1, 2)), (3, (n_photos - 1, 0))):
        assert np.array_equal(found[row], draw(row, *places)), row
        assert not np.array_equal(found[row], draw(row, *places[::-1])), row
        assert not np.array_equal(found[row], draw(row, *places[:1])), row
    # A prompt without the slot asks for the class, and no photo is shown.
    assert np.array_equal(found[2], pixels(method.model.sample(["a dog"], [7]))[0])


def test_all_photos_are_shown_in_their_order_where_they_are_not_more(klein, tmp_path):
    (dog,) = subjects("dog")
    method, generator = prompt_with(klein, tmp_path, dog, max_photos=len(dog.photos))
    found = pixels(generator.generate(PROMPTS[:1], SEEDS[:1]))
    photos = [load_image(path) for path in dog.photos]
    texts = ["This dog: a dog on the beach"]
    wanted = method.model.sample_in_context(texts, SEEDS[:1], photos=photos)
    assert np.array_equal(found, pixels(wanted))
    # A protocol with references = "single" hands one on.
    single = method.load(replace(dog, single=1).show("single"), tmp_path)
    alone = method.model.sample_in_context(texts, SEEDS[:1], photos=photos[1:2])
    assert np.array_equal(pixels(single.generate(PROMPTS[:1], SEEDS[:1])), pixels(alone))
    assert not np.array_equal(found, pixels(alone))


def test_what_the_model_is_told_is_the_recipes(klein, tmp_path):
    (dog,) = subjects("dog")
    words = {"subject": "{class} of the photo", "instruction": "{prompt}, and no other {class}"}
    method, generator = prompt_with(klein, tmp_path, dog.show("single"), **words)
    found = pixels(generator.generate(PROMPTS[3:], SEEDS[3:]))
    wanted = method.model.sample_in_context(
        ["a red dog of the photo, and no other dog"], SEEDS[3:], photos=[load_image(dog.photos[0])]
    )
    assert np.array_equal(found, pixels(wanted))
    assert PhotoPrompting.name_subject(method.settings, dog) == "dog of the photo"


def test_photos_are_named_where_a_model_wants_that(tmp_path):
    WRITERS["omnigen"](tmp_path / "pipeline")
    base = find_base_model(f"omnigen={tmp_path / 'pipeline'}")
    (dog,) = subjects("dog")
    instruction, seen = "{photos} {prompt}", []
    method, generator = prompt_with(
        base, tmp_path, dog, instruction=instruction, image_guidance=1.6
    )
    draw = generator.draw
    generator.draw = lambda prompts, seeds, **words: (
        seen.append(prompts) or draw(prompts, seeds, **words)
    )
    assert len(generator.generate(PROMPTS[:1], SEEDS[:1])) == 1
    named = "<img><|image_1|></img> <img><|image_2|></img> a dog on the beach"
    assert seen == [[named]]
    photos = [load_image(path) for path in dog.photos]
    shown = [photos[(SEEDS[0] + step) % len(photos)] for step in range(2)]
    wanted = method.model.sample_in_context([named], SEEDS[:1], photos=shown, image_guidance=1.6)
    assert np.array_equal(pixels(generator.generate(PROMPTS[:1], SEEDS[:1])), pixels(wanted))


@pytest.mark.parametrize(
    ("key", "text"),
    [("instruction", "a picture"), ("instruction", "{prompt} {}"), ("subject", "{prompt}"),
     ("subject", ""), ("max_photos", 0)],
)  # fmt: skip
def test_words_without_their_slots_are_refused(key, text):
    recipe = load_recipe("flux2-klein").change("flux2-klein", {key: text})
    with pytest.raises(UserError) as caught:
        read_settings(recipe, "flux2-klein")
    assert caught.value.code == "invalid-value" and key in str(caught.value)


def test_the_words_are_in_the_digest_and_printed():
    recipe = load_recipe("flux-kontext")
    told = recipe.settings_for("flux-kontext")["instruction"]
    assert "{prompt}" in told
    for key, value in (("instruction", "{prompt}"), ("subject", "this {class}")):
        changed = recipe.change("flux-kontext", {key: value})
        assert changed.digest("flux-kontext") != recipe.digest("flux-kontext")
    words = ("plan", "--method", "flux-kontext", "--protocol", "mini", "--base-model")
    printed = invoke(*words, "flux-kontext")
    assert told in printed.stdout
    assert "gated" in printed.stdout
    found = json.loads(invoke(*words, "flux-kontext", "--json").stdout)
    assert found["settings"] == recipe.settings_for("flux-kontext")


def test_a_base_model_that_is_shown_no_photos_is_refused_with_those_that_are(tmp_path):
    fitting = {name for name, model in BASE_MODELS.items() if model.family in IN_CONTEXT}
    for base in ("mini", "sdxl", "flux-dev", "sd35-medium", "qwen-image"):
        for command in (("plan",), ("run", "--out", tmp_path / "runs")):
            line = refused_at_once(
                *command, "--method", "photo-prompting", "--protocol", "mini", "--base-model", base
            )
            assert f"'{base}'" in line and all(name in line for name in fitting)
        with pytest.raises(UserError) as caught:
            read_settings(load_recipe("flux-kontext"), base)
        assert caught.value.code == "unsupported-base-model"
        assert "--base-model flux-kontext:" in caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_what_a_model_does_not_know_or_needs_is_refused_before_anything_starts():
    words = ("plan", "--protocol", "mini", "--method")
    klein = (*words, "flux2-klein", "--base-model", "flux2-klein", "--set")
    omnigen = (*words, "omnigen", "--base-model", "omnigen", "--set")
    for told, name in (
        ((*klein, "image_guidance=1.6"), "image_guidance"),
        ((*klein, "instruction=Of {photos}: {prompt}"), "{photos}"),
        ((*omnigen, "instruction=Draw {prompt}"), "{photos}"),
    ):
        assert name in refused_at_once(*told)


def test_more_photos_than_a_pipeline_takes_are_refused_before_anything_starts():
    words = ("plan", "--method", "flux-kontext", "--protocol", "mini", "--base-model")
    line = refused_at_once(*words, "flux-kontext", "--set", "max_photos=2")
    assert "max_photos = 1" in line and "'flux-kontext'" in line


def test_what_photos_take_is_counted():
    protocol = load_protocol("dreambench")
    chosen = list_subjects(protocol.find_dataset())
    for recipe, base in ROWS:
        model = BASE_MODELS[base]
        plain, shown = (
            make_estimate(protocol, load_recipe(name), model, chosen)
            for name in ("class-only", recipe)
        )
        most = load_recipe(recipe).settings_for(base)["max_photos"]
        calls = model.count_calls(model.choose_sampler(protocol.sampler))
        # OmniGen is guided by photos in a third call.
        of_image = 1 + most + 0.5 * (recipe == "omnigen")
        assert shown.n_network_calls == (120 + 3000 * of_image) * calls
        assert plain.memory_bytes <= shown.memory_bytes < plain.memory_bytes + 1e10
    klein = make_estimate(protocol, load_recipe("flux2-klein"), BASE_MODELS["flux2-klein"], chosen)
    small = make_estimate(protocol, load_recipe("class-only"), BASE_MODELS["flux2-klein"], chosen)
    # Layers on the tokens of five images of 1024 px hold more than decoding one: 5.5 GB in fp32.
    assert klein.memory_bytes - small.memory_bytes > 1.5e9


@pytest.mark.usefixtures("few_pixels")
@pytest.mark.parametrize(("recipe", "base"), ROWS)
def test_a_run_ends_with_scores(recipe, base, tmp_path, shared_cache):
    WRITERS[base](tmp_path / "pipeline")
    (tmp_path / "tiny.toml").write_text(PROTOCOL)
    invoke(
        "run", "--method", recipe, "--protocol", tmp_path / "tiny.toml", "--alongside", "",
        "--base-model", f"{base}={tmp_path / 'pipeline'}", "--out", tmp_path / "runs",
        "--cache", shared_cache,
    )  # fmt: skip
    folder = tmp_path / "runs" / "tiny" / recipe
    manifest = json.loads((folder / "run.json").read_text())
    assert manifest["recipe"]["track"] == "tuning-free, all photos"
    assert manifest["recipe"]["settings"] == load_recipe(recipe).settings_for(base)
    assert len(list((folder / "images").rglob("*.png"))) == 1
    summary = json.loads((folder / "summary.json").read_text())
    assert -1 <= summary["metrics"]["dino"]["whole"]["mean"] <= 1
    assert manifest["recipe"]["settings"]["instruction"] in (
        folder / "report" / "report.md"
    ).read_text().replace("\\", "")
