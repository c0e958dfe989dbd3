"""Editing and composition methods on real pipelines: what each keeps and what it generates."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from small_pipelines import SAMPLER, context, pixels, subjects

from dreambench.artifacts.plan import make_plan
from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.config.protocol import load_protocol
from dreambench.config.recipe import load_recipe
from dreambench.errors import UserError
from dreambench.methods.base import Context
from dreambench.methods.editing.composition import Composition, CutAndPaste, paste, remove_subject
from dreambench.methods.editing.ddim_inversion import DDIMInversion, invert, match_tokens
from dreambench.methods.editing.inpainting import Inpainting, shrink_masks
from dreambench.methods.editing.masks import find_mask, load_masks
from dreambench.methods.editing.sdedit import SDEdit
from dreambench.methods.photos import load_photo
from dreambench.methods.reference.class_only import ClassOnly
from dreambench.methods.registry import find_method, make_method, read_settings
from dreambench.mini.real_images import find_identity, read_prompt
from dreambench.mini.world.renderer import SIZE_PX, make_caption
from dreambench.preflight.cost_estimate import make_estimate
from dreambench.storage.images import load_image

BASELINES = ["composition", "cut-and-paste", "sdedit", "inpainting", "ddim-inversion"]
PROMPTS = ["a {subject} on the beach", "a red {subject}", "an oil painting of a {subject}"]
SEEDS = [11, 12, 13]


def few(name):
    """A subject with two of its photos: each that is inverted takes its time."""
    (subject,) = subjects(name)
    photos, masks = subject.photos[:2], subject.masks[:2]
    return replace(subject, photos=photos, masks=masks, sha256=subject.sha256[:2])


def fit_and_load(method, subject, out_dir):
    out_dir.mkdir(exist_ok=True)
    method.fit(subject, out_dir, seed=1)
    return method.load(subject, out_dir)


def make(name, where, cache_dir):
    """A shipped baseline on a base model, at a few steps."""
    return make_method(load_recipe(name), context(cache_dir, base_model=where))


def make_with(method, cache_dir, **numbers):
    return method(method.Settings(**numbers), context(cache_dir))


def gap(one, other):
    """Mean difference of pixels, in levels of 255."""
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).mean())


@pytest.fixture(params=["mini", "other", "xl"])
def base(request, base_of):
    return base_of[request.param]


@pytest.mark.parametrize("name", BASELINES)
def test_images_depend_on_their_own_prompt_and_seed_alone(name, base, shared_cache, tmp_path):
    generator = fit_and_load(make(name, base, shared_cache), few("dog"), tmp_path / name)
    prompts, seeds = [*PROMPTS, "a dog"], [*SEEDS, 14]
    together = pixels(generator.generate(prompts, seeds)).astype(int)
    assert together.shape == (4, 64, 64, 3)
    alone = pixels([generator.generate([p], [s])[0] for p, s in zip(prompts, seeds, strict=True)])
    # Sums may run in another order in another batch: a rounding step, never another picture.
    assert np.abs(together - alone).max() <= 2
    (other,) = pixels(generator.generate(PROMPTS[:1], [SEEDS[0] + 1]))
    assert gap(other, together[0]) > 2, "the seed picks the photo"


@pytest.mark.parametrize("name", BASELINES)
def test_the_plain_class_is_drawn_by_the_base_model(name, base_of, shared_cache, tmp_path):
    mug, base = few("mug"), base_of["small"]
    generator = fit_and_load(make(name, base, shared_cache), mug, tmp_path / name)
    generator.generate(PROMPTS, SEEDS)  # Nothing of an edit stays in the networks.
    plain = ClassOnly(None, context(shared_cache, base_model=base)).load(mug, tmp_path)
    own = pixels(generator.generate(["a mug", "a mug"], [5, 6]))
    assert np.array_equal(own, pixels(plain.generate(["a mug", "a mug"], [5, 6])))
    mixed = pixels(generator.generate(["a mug", "a {subject}", "a mug"], [5, 7, 6])).astype(int)
    assert np.abs(mixed[[0, 2]] - own).max() <= 2
    assert gap(mixed[1], plain.generate(["a mug"], [7])[0]) > 2


@pytest.mark.parametrize("name", BASELINES)
def test_out_of_memory_halves_the_batch(name, base_of, shared_cache, tmp_path, monkeypatch):
    made = make(name, base_of["small"], shared_cache)
    generator = fit_and_load(made, few("dog"), tmp_path / name)
    whole = pixels(generator.generate(PROMPTS, SEEDS)).astype(int)
    edit, sizes = generator._generate_subject, []

    def crowded(prompts, seeds):
        sizes.append(len(prompts))
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return edit(prompts, seeds)

    monkeypatch.setattr(generator, "_generate_subject", crowded)
    assert np.abs(pixels(generator.generate(PROMPTS, SEEDS)) - whole).max() <= 2
    assert sizes == [3, 1, 1, 1]


def test_a_strength_below_one_step_is_one_line(shared_cache):
    for method in (SDEdit, Composition):
        with pytest.raises(UserError, match=r"0\.2 .* 4 steps") as caught:
            make_with(method, shared_cache, strength=0.2)
        assert caught.value.code == "invalid-value"
        assert "0.25" in caught.value.hint


def test_sdedit_keeps_less_of_the_photo_the_stronger_it_is(shared_cache, tmp_path):
    (mug,) = subjects("mug")
    gaps = []
    for strength in (0.25, 0.5, 0.75, 1.0):
        generator = make_with(SDEdit, shared_cache, strength=strength).load(mug, tmp_path)
        images = generator.generate(PROMPTS[:1] * 4, [1, 2, 3, 4])
        gaps.append(
            np.mean(
                [gap(generator.photos[seed % 5], image) for seed, image in enumerate(images, 1)]
            )
        )
    assert gaps == sorted(gaps)
    assert gaps[0] < 0.4 * gaps[-1]


def test_sdedit_at_little_strength_gives_the_photo_back(shared_cache, tmp_path):
    (mug,) = subjects("mug")
    plain = context(shared_cache)
    sampler = SAMPLER.model_copy(update={"n_steps": 50})
    many = Context(**vars(plain) | {"sampler": sampler})
    generator = SDEdit(SDEdit.Settings(strength=0.02), many).load(mug, tmp_path)
    (image,) = generator.generate(["a {subject} on the beach"], [5])
    assert gap(image, generator.photos[0]) < 10
    assert gap(image, generator.photos[1]) > 30


def test_a_prompt_without_its_subject_is_the_scene():
    for prompt, scene in (
        ("a {subject} on the beach", "on the beach"),
        ("a {subject} with a blue house in the background", "with a blue house in the background"),
        ("a red {subject}", ""),
        ("a cube shaped {subject}", ""),
        ("an oil painting of a {subject}", "an oil painting"),
        ("a painting of a {subject} in the style of Leonardo da Vinci",
         "a painting in the style of Leonardo da Vinci"),
        ("{subject} on top of a dirt road", "on top of a dirt road"),
        ("a {subject} wearing a red hat", ""),
    ):  # fmt: skip
        assert remove_subject(prompt) == scene


def test_cut_and_paste_keeps_the_subjects_pixels_and_draws_the_others(shared_cache, tmp_path):
    (mug,) = subjects("mug")
    generator = make_with(CutAndPaste, shared_cache).load(mug, tmp_path)
    for seed, mask in enumerate(load_masks(mug, 64)):
        (image,) = pixels(generator.generate(PROMPTS[:1], [seed]))
        assert np.array_equal(image[mask], np.asarray(generator.photos[seed])[mask])
        (scene,) = pixels(generator.model.sample(["on the beach"], [seed]))
        assert np.array_equal(image[~mask], scene[~mask])
        assert gap(image[~mask], np.asarray(generator.photos[seed])[~mask]) > 10


def test_a_prompt_that_asks_for_no_place_keeps_the_photos(shared_cache, tmp_path):
    (mug,) = subjects("mug")
    pasted = make_with(CutAndPaste, shared_cache).load(mug, tmp_path)
    images = pixels(pasted.generate(["a red {subject}", PROMPTS[0]], [2, 3]))
    assert np.array_equal(images[0], np.asarray(pasted.photos[2]))
    whole = make_with(Composition, shared_cache, strength=0.5).load(mug, tmp_path)
    assert gap(whole.generate(["a red {subject}"], [2])[0], images[0]) > 2


def test_harmonising_changes_the_paste_the_more_the_stronger_it_is(shared_cache, tmp_path):
    (mug,) = subjects("mug")
    pasted = make_with(CutAndPaste, shared_cache).load(mug, tmp_path)
    before, weak, strong = (
        pixels(generator.generate(PROMPTS[:1] * 3, SEEDS))
        for generator in (
            pasted,
            make_with(Composition, shared_cache, strength=0.25).load(mug, tmp_path),
            make_with(Composition, shared_cache, strength=0.75).load(mug, tmp_path),
        )
    )
    assert 2 < gap(before, weak) < 0.6 * gap(before, strong)


def test_paste_takes_the_masked_pixels():
    photo = Image.fromarray(np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3))
    scene = Image.new("RGB", (4, 4), "white")
    mask = np.zeros((4, 4), bool)
    mask[1, 0] = True
    found = np.asarray(paste(photo, mask, scene))
    assert np.array_equal(found[1, 0], np.asarray(photo)[1, 0])
    assert (found == 255).all(-1).sum() == 15


@pytest.mark.parametrize("name", ["dog", "cat", "mug", "car"])
def test_grabcut_finds_the_subject_of_a_mini_photo(name):
    (subject,) = subjects(name)
    overlaps = []
    for path, known in zip(subject.photos, load_masks(subject, SIZE_PX), strict=True):
        photo = load_photo(path, size_px=SIZE_PX)
        found = find_mask(photo)
        assert np.array_equal(found, find_mask(photo))
        overlaps.append((found & known).sum() / (found | known).sum())
    assert np.median(overlaps) > 0.6


def test_without_masks_grabcut_is_what_is_cut_out(shared_cache, tmp_path):
    (mug,) = subjects("mug")
    bare = type(mug)(mug.name, mug.class_name, mug.kind, mug.photos, mug.sha256)
    masks = load_masks(bare, 64)
    assert len(masks) == 5
    generator = make_with(CutAndPaste, shared_cache).load(bare, tmp_path)
    for own, mask, photo in zip(generator.masks, masks, generator.photos, strict=True):
        assert np.array_equal(own, find_mask(photo))
        assert np.array_equal(own, mask)


def test_a_picture_without_a_subject_still_gives_a_mask():
    mask = find_mask(Image.new("RGB", (64, 64), "grey"))
    assert mask.mean() > 0.5
    assert not mask[0].any()


def test_masks_shrink_to_the_latents():
    mask = np.zeros((8, 8), bool)
    mask[:4, :2] = True
    small = shrink_masks([mask], 2, 0.5)
    assert small.tolist() == [[[[True, False], [False, False]]]]
    assert not shrink_masks([mask], 2, 0.6).any()


def test_inpainting_keeps_the_subject_and_draws_the_rest(shared_cache, tmp_path):
    (mug,) = subjects("mug")
    generator = make_with(Inpainting, shared_cache, min_share=0.5, kept_steps=1.0).load(
        mug, tmp_path
    )
    inside, outside = [], []
    for seed in range(10):
        (image,) = generator.generate(PROMPTS[:1], [seed])
        photo, mask = np.asarray(generator.photos[seed % 5]), load_masks(mug, 64)[seed % 5]
        changed = np.abs(np.asarray(image).astype(int) - photo).mean(-1)
        inside.append(changed[mask].mean())
        outside.append(changed[~mask].mean())
    assert np.mean(inside) < 0.35 * np.mean(outside)
    # It is the putting back that keeps it.
    loose = make_with(Inpainting, shared_cache, min_share=0.5, kept_steps=0.0).load(mug, tmp_path)
    (image,) = loose.generate(PROMPTS[:1], [0])
    mask = load_masks(mug, 64)[0]
    assert gap(np.asarray(image)[mask], np.asarray(loose.photos[0])[mask]) > 2 * inside[0]


def invert_and_sample(model, subject, n_corrections):
    """Photos, what the autoencoder makes of them, and what plain sampling does of their noise."""
    pipeline = model.pipeline
    photos = [load_photo(path, size_px=64) for path in subject.photos]
    latents = model.encode_images(photos).means()
    caption = f"a {subject.class_name}"
    # A folder's own schedule may clip latents, which no inversion can undo.
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    noise = invert(model, latents, caption=caption, n_corrections=n_corrections)
    with torch.no_grad():
        coded = model.decode_latents(latents)
    drawn = pipeline(
        prompt=[caption] * len(photos), latents=noise, guidance_scale=1.0,
        num_inference_steps=model.sampler.n_steps, height=64, width=64,
    ).images  # fmt: skip
    return photos, coded, drawn, noise


def test_inverted_photos_are_drawn_again(shared_cache):
    dog = few("dog")
    sampler = SAMPLER.model_copy(update={"n_steps": 14, "guidance_scale": 4.0})
    plain = Context(**vars(context(shared_cache)) | {"sampler": sampler})
    model = plain.load_base_model()
    gaps = {}
    for n_corrections in (0, 4):
        photos, coded, drawn, noise = invert_and_sample(model, dog, n_corrections)
        gaps[n_corrections] = gap(pixels(drawn), pixels(coded))
    assert gaps[4] < 3
    assert gaps[4] < 0.2 * gaps[0]
    assert gap(pixels(drawn), pixels(photos)) < 10
    # Noise is what it has become.
    assert 0.8 < float(noise.std()) < 1.2


def test_tokens_in_common_keep_their_places():
    places = match_tokens([0, 5, 9, 1], [0, 5, 7, 9, 8, 1], 10)
    assert places.tolist() == [0, 1, -1, 2, -1, 3, 6, 7, 8, 9]


@pytest.mark.parametrize("where", ["mini", "other", "xl"])
def test_full_control_and_the_same_prompt_give_the_photo_back(
    where, base_of, shared_cache, tmp_path
):
    found = base_of[where]
    dog = few("dog")
    plain = context(shared_cache, base_model=found)
    settings = DDIMInversion.Settings(self_share=1, cross_share=1, n_corrections=3)
    method = DDIMInversion(settings, plain)
    generator = fit_and_load(method, dog, tmp_path / "full")
    images = pixels(generator.generate(["a {subject}"] * 2, [0, 1]))
    _, coded, drawn, _ = invert_and_sample(method.model, dog, 3)
    # Plain sampling from the noise at guidance 1, though guidance is 3 here.
    assert np.abs(images.astype(int) - pixels(drawn[:2])).max() <= 2
    if where == "mini":
        assert gap(images, pixels(coded[:2])) < 0.3 * gap(images, pixels([coded[1], coded[0]]))
    (changed,) = pixels(generator.generate(["a {subject} on the beach"], [0]))
    # Networks of random weights hardly hear a prompt, but they do.
    assert gap(changed, images[0]) > 0.005


def test_control_ties_the_image_to_the_photo(shared_cache, tmp_path):
    mug, gaps = few("mug"), []
    for share in (0.0, 0.5, 1.0):
        settings = {"self_share": share, "cross_share": share, "n_corrections": 3}
        method = make_with(DDIMInversion, shared_cache, **settings)
        generator = fit_and_load(method, mug, tmp_path / str(share))
        images = generator.generate([PROMPTS[0]] * 2, range(2))
        gaps.append(gap(pixels(images), pixels(generator.photos)))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[2] < 0.8 * gaps[0]


def test_attention_is_left_as_it_was(shared_cache, tmp_path):
    mug = few("mug")
    method = make("ddim-inversion", BASE_MODELS["mini"], shared_cache)
    method.model.pipeline.unet.set_attn_processor(AttnProcessor())
    generator = fit_and_load(method, mug, tmp_path / "x")
    generator.generate(PROMPTS, SEEDS)
    kinds = {type(item) for item in method.model.pipeline.unet.attn_processors.values()}
    assert kinds == {AttnProcessor}


def test_drawn_oracle_is_the_subject_as_the_prompt_says(shared_cache, tmp_path):
    recipe, protocol = load_recipe("real-images"), load_protocol("mini")
    method = make_method(recipe, context(shared_cache))
    for subject in subjects("dog", "mug"):
        generator = method.load(subject, tmp_path)
        for prompt in protocol.prompts_for(subject.kind):
            shot = read_prompt(prompt.text, find_identity(subject), seed=3)
            assert make_caption(shot) == prompt.text.format(subject=subject.class_name)
            one, two, again = generator.generate([prompt.text] * 3, [3, 4, 3])
            assert one.size == (64, 64)
            assert gap(one, two) > 2
            assert gap(one, again) == 0


def test_drawn_oracle_takes_the_same_individual_and_another_for_the_plain_class(
    shared_cache, tmp_path
):
    (mug,) = subjects("mug")
    generator = make("real-images", BASE_MODELS["mini"], shared_cache).load(mug, tmp_path)
    photos = pixels([load_image(path) for path in mug.photos])[np.stack(load_masks(mug, 64))]

    def colour(images):
        # The middle of the lower half, where a mug's body stands.
        return np.median(pixels(images)[:, 34:50, 24:40].reshape(-1, 3), axis=0)

    own = colour(generator.generate(["a {subject} on the beach"] * 8, range(8)))
    others = [colour(generator.generate(["a mug"], [seed])) for seed in range(8)]
    nearest = np.median(photos, axis=0)
    assert np.abs(own - nearest).mean() < np.mean([np.abs(o - nearest).mean() for o in others])


def test_oracle_of_another_subject_or_prompt_is_one_line(shared_cache, tmp_path):
    mug, dog = subjects("mug", "dog")
    method = make("real-images", BASE_MODELS["mini"], shared_cache)
    stranger = type(mug)("mug", "mug", "object", dog.photos, dog.sha256)
    with pytest.raises(UserError, match="'mug'") as caught:
        method.load(stranger, tmp_path)
    assert caught.value.code == "unsupported-subject"
    with pytest.raises(UserError, match="on the moon") as caught:
        method.load(mug, tmp_path).generate(["a {subject} on the moon"], [1])
    assert caught.value.code == "unsupported-prompt"


def test_oracle_of_photos_gives_each_of_them(shared_cache, tmp_path):
    (mug,) = subjects("mug")
    settings = find_method("real-images").Settings(pictures="photos")
    method = find_method("real-images")(settings, context(shared_cache))
    images = pixels(method.load(mug, tmp_path).generate(PROMPTS[:1] * 5, range(5)))
    assert np.array_equal(images, pixels([load_photo(path, size_px=64) for path in mug.photos]))


@pytest.mark.parametrize("name", BASELINES)
def test_work_is_counted_as_it_is_done(name, base_of, shared_cache, tmp_path):
    """The estimate's network calls are the UNet's rows, or more where prompts decide."""
    (mug,) = subjects("mug")
    recipe, base, protocol = load_recipe(name), base_of["small"], load_protocol("mini")
    sampler = SAMPLER.model_copy(update={"n_steps": 10})  # Whole steps at every strength.
    protocol = protocol.model_copy(update={"n_images_per_prompt": 1, "sampler": sampler})
    where = replace(context(shared_cache, base_model=base), sampler=sampler)
    method = make_method(recipe, where)
    generator = fit_and_load(method, mug, tmp_path / "x")
    rows = []
    unet = method.model.pipeline.unet
    unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    units = make_plan(protocol, [mug], batch_size=100).images
    generator.generate([unit.prompt for unit in units], [unit.seed for unit in units])
    told = make_estimate(protocol, recipe, base, [mug]).n_network_calls
    if isinstance(method, CutAndPaste):
        # Of the ten prompts two or three ask for no other place than the photo's.
        assert 0.7 * told < sum(rows) < told
    else:
        assert sum(rows) == pytest.approx(told, rel=0.1)


@pytest.mark.parametrize("name", [*BASELINES, "real-images"])
def test_every_base_model_has_its_numbers(name):
    for base in ("mini", "sd15", "sd21", "sdxl"):
        assert read_settings(load_recipe(name), base)
