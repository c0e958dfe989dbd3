"""Reconstruction: shapes from photos and from Shap-E, kept in files, and shown in scenes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import invoke
from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEImg2ImgPipeline
from diffusers.pipelines.shap_e import ShapERenderer
from PIL import Image
from safetensors.torch import load_file, save_file
from small_pipelines import context, pixels, subjects, write_sd_folder
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.registry import find_base_model
from dreambench.config.recipe import load_recipe
from dreambench.errors import UserError
from dreambench.methods.editing.masks import load_masks
from dreambench.methods.photos import load_photo
from dreambench.methods.reconstruction.from_photos import reconstruct
from dreambench.methods.reconstruction.image_to_3d import (
    IMAGE_TO_3D,
    ImageTo3D,
    match_views,
    put_on_white,
)
from dreambench.methods.reconstruction.method import Reconstruction, stand, take_out
from dreambench.methods.reconstruction.shape import FILE, Shape, cut_box, read_shape
from dreambench.methods.registry import make_method, read_settings

SEEDS = [1, 2]
SHAP_E = IMAGE_TO_3D["shap-e-img2img"]


@pytest.fixture(scope="module")
def dog():
    (found,) = subjects("dog")
    return replace(found, photos=found.photos[:3], masks=found.masks[:3])


@pytest.fixture(scope="module")
def shape(dog):
    photos = [load_photo(path, size_px=64) for path in dog.photos]
    return reconstruct(photos, load_masks(dog, 64), n_cells=32)


def draw_outline(shape, azimuth, elevation):
    """What a shape covers, cut to its box and enlarged to 32 px a side."""
    drawn = cut_box(shape.draw(azimuth, elevation, side_px=96)).getchannel("A")
    return np.asarray(drawn.resize((32, 32))) > 127


def share(one, other):
    return (one & other).sum() / (one | other).sum()


# A shape from photos


def test_a_shape_fills_the_photos_that_it_was_carved_from(dog, shape):
    assert shape.views.shape == (3, 2)
    for path, mask, view in zip(dog.photos, load_masks(dog, 64), shape.views, strict=True):
        rows, columns = np.nonzero(mask)
        box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        seen = np.asarray(Image.fromarray(box).resize((32, 32)))
        assert share(draw_outline(shape, *map(float, view)), seen) > 0.7
        # And has their colours.
        drawn = np.asarray(cut_box(shape.draw(*map(float, view), side_px=96)), float)
        colour = drawn[drawn[..., 3] > 200][:, :3].mean(0)
        photo = np.asarray(load_photo(path, size_px=64), float)[mask].mean(0)
        assert np.abs(colour - photo).max() < 30


def test_a_shape_is_deep_and_has_two_sides(shape):
    front, side = draw_outline(shape, 0, 10), draw_outline(shape, 90, 10)
    assert share(front, side) < 0.9
    left, right = (np.asarray(shape.draw(a, 10, side_px=48), int) for a in (90, -90))
    assert np.abs(left - right).mean() > 1
    solid = shape.solid > 127
    assert np.ptp(np.nonzero(solid)[0]) > 4, "no card that is cut out"


def test_a_known_solid_is_found_again():
    # A box, twice as long as wide, of which four sides have colours of their own.
    solid = np.zeros((24, 24, 24), np.uint8)
    solid[4:20, 6:18, 8:16] = 255
    colours = np.zeros((24, 24, 24, 3), np.uint8)
    colours[18:] = (220, 30, 30)
    colours[:18, :, :12], colours[:18, :, 12:] = (30, 30, 220), (30, 200, 30)
    truth = Shape(solid, colours, np.zeros((0, 2), np.float32))
    photos, masks = [], []
    for azimuth, elevation in ((-40, 15), (0, 20), (45, 15)):
        drawn = truth.draw(azimuth, elevation, side_px=64)
        masks.append(np.asarray(drawn)[..., 3] > 127)
        photos.append(drawn.convert("RGB"))
    found = reconstruct(photos, masks, n_cells=32)
    assert share(draw_outline(found, 90, 10), draw_outline(truth, 90, 10)) > 0.6
    side = np.asarray(cut_box(found.draw(90, 10, side_px=64)), float)
    seen = side[side[..., 3] > 200]
    assert seen[:, 1].mean() > seen[:, 2].mean(), "the side at the right is green"


def test_a_single_photo_gives_a_round_shape(dog):
    photo, mask = load_photo(dog.photos[0], size_px=64), load_masks(dog, 64)[0]
    found, again = (reconstruct([photo], [mask], n_cells=24) for _ in range(2))
    assert np.ptp(np.nonzero(found.solid > 127)[0]) > 3
    assert np.array_equal(found.solid, again.solid)
    assert np.array_equal(found.colours, again.colours)


# The file


def test_a_shape_comes_back_as_it_was(shape, tmp_path):
    shape.write(tmp_path)
    found = read_shape(tmp_path, n_photos=3)
    for name in ("solid", "colours", "views"):
        assert np.array_equal(getattr(found, name), getattr(shape, name))


@pytest.mark.parametrize("change", ["cut", "other-photos", "flat", "huge", "nan", "float"])
def test_a_file_that_is_no_such_shape_is_refused(change, shape, tmp_path):
    shape.write(tmp_path)
    file = tmp_path / FILE
    tensors = load_file(file)
    if change == "flat":
        tensors["solid"] = tensors["solid"][:1].clone()
    if change == "huge":
        tensors["solid"] = torch.zeros((300, 1, 1), dtype=torch.uint8)
    if change == "nan":
        tensors["views"][0] = torch.nan
    if change == "float":
        tensors["colours"] = tensors["colours"].float()
    save_file(tensors, file)
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError) as caught:
        read_shape(tmp_path, n_photos=2 if change == "other-photos" else 3)
    assert caught.value.code == "wrong-weights"


# In a scene


def make(shared_cache, **changes):
    recipe = load_recipe("reconstruction").change("mini", {"n_cells": 24, **changes})
    return make_method(recipe, context(shared_cache))


def test_images_show_the_view_that_is_asked_for(dog, shape, shared_cache, tmp_path):
    shape.write(tmp_path)
    generator = make(shared_cache).load(dog, tmp_path)
    place = Image.new("RGB", (64, 64), "white")
    shown = {}
    for words in ("seen from the front", "seen from the back", "seen from the top"):
        shown[words] = np.asarray(generator._set_in(f"a {{subject}} {words}", 3, 0, place), int)
    front, back, top = shown.values()
    assert np.abs(front - back).mean() > 3 and np.abs(front - top).mean() > 3
    # On its feet, where it stands in the photo.
    bottom = np.nonzero(load_masks(dog, 64)[0])[0].max() + 1
    assert np.nonzero((front < 200).any((1, 2)))[0].max() + 1 == pytest.approx(bottom, abs=1)
    sides = [
        np.asarray(generator._set_in("a {subject} seen from the side", seed, 0, place), int)
        for seed in (0, 3)
    ]
    assert np.abs(sides[0] - sides[1]).mean() > 3, "the seed picks the side"


def test_an_image_depends_on_its_own_prompt_and_seed(dog, shape, shared_cache, tmp_path):
    shape.write(tmp_path)
    generator = make(shared_cache).load(dog, tmp_path)
    prompts = ["a {subject} on the beach", "a {subject} seen from the back"]
    together = pixels(generator.generate(prompts, SEEDS)).astype(int)
    alone = pixels(
        [generator.generate([p], [s])[0] for p, s in zip(prompts, SEEDS, strict=True)]
    ).astype(int)
    assert together.shape == (2, 64, 64, 3)
    assert np.abs(together - alone).max() <= 2


def test_a_place_is_left_without_its_subject(dog):
    photo, mask = load_photo(dog.photos[0], size_px=64), load_masks(dog, 64)[0]
    empty = np.asarray(take_out(photo, mask), int)
    gap = np.abs(empty - np.asarray(photo, int)).mean(-1)
    assert gap[mask].mean() > 20
    assert gap[:, :4].max() == 0, "what is far away stays"


def test_what_is_drawn_fits_into_the_box():
    drawn = Image.new("RGBA", (40, 20), (255, 0, 0, 255))
    image = np.asarray(stand(drawn, Image.new("RGB", (64, 64)), (10, 12, 42, 60)))
    rows, columns = np.nonzero(image[..., 0] > 127)
    assert (rows.min(), rows.max() + 1) == (36, 60)
    assert (columns.min(), columns.max() + 1) == (2, 50)


def test_masks_that_show_nothing_are_left_out_or_refused(dog, shared_cache, tmp_path):
    empty = tmp_path / "empty.png"
    Image.new("L", (64, 64)).save(empty)
    method = make(shared_cache)
    method.fit(replace(dog, masks=[dog.masks[0], empty, dog.masks[2]]), tmp_path, seed=1)
    assert read_shape(tmp_path, n_photos=3).views.shape == (3, 2)
    with pytest.raises(UserError) as caught:
        method.fit(replace(dog, masks=[empty] * 3), tmp_path, seed=1)
    assert caught.value.code == "unsupported-subject"


def test_photos_that_agree_about_nothing_are_refused(dog, shared_cache, tmp_path):
    masks = [tmp_path / "upright.png", tmp_path / "flat.png"]
    for path, box in zip(masks, ((31, 2, 32, 62), (2, 31, 62, 32)), strict=True):
        mask = Image.new("L", (64, 64))
        mask.paste(255, box)
        mask.save(path)
    with pytest.raises(UserError) as caught:
        make(shared_cache).fit(replace(dog, photos=dog.photos[:2], masks=masks), tmp_path, seed=1)
    assert caught.value.code == "unsupported-subject"


# Shap-E


def write_shap_e(folder, *, width=16):
    """A random snapshot in the layout of ShapEImg2ImgPipeline: other sizes, the same parts."""
    torch.manual_seed(4)
    shapes = [(8, 93), (8, 8), (8, 8), (8, 8)]
    parts = {
        "prior": PriorTransformer(
            num_attention_heads=2, attention_head_dim=8, num_layers=1, embedding_dim=width,
            num_embeddings=32, embedding_proj_dim=16, time_embed_dim=16, clip_embed_dim=2 * width,
            additional_embeddings=0, time_embed_act_fn="gelu", norm_in_type="layer",
            embedding_proj_norm_type="layer", encoder_hid_proj_type=None, added_emb_type=None,
        ),
        "image_encoder": CLIPVisionModel(CLIPVisionConfig(
            hidden_size=16, image_size=32, projection_dim=16, intermediate_size=16, patch_size=8,
            num_attention_heads=2, num_hidden_layers=1,
        )),
        "shap_e_renderer": ShapERenderer(
            param_shapes=shapes, d_latent=width, d_hidden=8, n_output=12
        ),
        "scheduler": HeunDiscreteScheduler(
            beta_schedule="exp", num_train_timesteps=1024, prediction_type="sample",
            use_karras_sigmas=True, clip_sample=True, clip_sample_range=1.0,
        ),
        "image_processor": CLIPImageProcessor(
            crop_size=32, size=32, do_center_crop=True, do_normalize=True, do_resize=True,
        ),
    }  # fmt: skip
    # A last layer that says inside here and outside there, and colours that differ.
    last = parts["shap_e_renderer"].mlp.mlp[-1]
    torch.nn.init.normal_(last.weight, std=20.0)
    torch.nn.init.zeros_(last.bias)
    ShapEImg2ImgPipeline(**parts).save_pretrained(folder)


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path / "weights"))
    write_shap_e(SHAP_E.local_dir)
    return SHAP_E.local_dir


def test_a_snapshot_of_shap_e_gives_what_its_own_renderer_has(snapshot, dog):
    maker = ImageTo3D(SHAP_E, device="cpu")
    photos, masks = [load_photo(dog.photos[0], size_px=64)], load_masks(dog, 64)[:1]
    numbers = {"n_cells": 16, "n_steps": 2, "guidance": 3.0}
    found, again, other = (
        maker.reconstruct(photos, masks, **numbers, seed=seed) for seed in (5, 5, 6)
    )
    assert found.solid.shape == (16, 16, 16) and found.views.shape == (1, 2)
    assert 0 < (found.solid > 127).mean() < 1
    assert np.array_equal(found.solid, again.solid) and np.array_equal(found.colours, again.colours)
    assert not np.array_equal(found.colours, other.colours)
    # The same pipeline, called as diffusers' documentation does, has the same latents.
    pipeline = ShapEImg2ImgPipeline.from_pretrained(snapshot)
    latents = pipeline(
        put_on_white(photos[0], masks[0]), num_inference_steps=2, guidance_scale=3.0,
        generator=torch.Generator().manual_seed(5), output_type="latent",
    ).images  # fmt: skip
    maker.reconstruct(photos, masks, **numbers, seed=5)
    theirs = pipeline.shap_e_renderer
    # Marching cubes has its table among the weights; random ones stand for some triangles.
    theirs.mesh_decoder.masks[:] = True
    theirs.decode_to_mesh(latents, "cpu", grid_size=4)
    mine = maker.pipeline.shap_e_renderer.mlp.state_dict()
    for name, values in theirs.mlp.state_dict().items():
        assert torch.equal(mine[name], values)
    # Its z is up and its y leads away: the cell that is lowest, on the right and at the front.
    rough = maker._ask(4, turn=0.0)
    with torch.no_grad():
        answer = theirs.mlp(
            position=torch.tensor([[[0.75, -0.75, -0.75]]]), direction=None, ts=None,
            nerf_level="fine", rendering_mode="stf",
        )  # fmt: skip
    assert rough.colours[3, 0, 3].tolist() == (answer.channels[0, 0] * 255).round().tolist()


def test_views_of_photos_are_found_again(shape):
    asked = [(0, 15), (90, 15), (195, 30)]
    drawn = [shape.draw(*view, side_px=96) for view in asked]
    masks = [np.asarray(image)[..., 3] > 127 for image in drawn]
    found = match_views(shape, [image.convert("RGB") for image in drawn], masks)
    assert [tuple(view) for view in found] == asked


def test_weights_that_are_not_here_or_not_right_are_named(snapshot, dog, tmp_path, shared_cache):
    file = snapshot / "prior" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-64])
    with pytest.raises(UserError) as caught:
        ImageTo3D(SHAP_E, device="cpu")
    assert caught.value.code == "unreadable-file"
    file.write_bytes(whole)
    tensors = load_file(file)
    save_file(dict(list(tensors.items())[1:]), file)
    with pytest.raises(UserError) as caught:
        ImageTo3D(SHAP_E, device="cpu")
    assert caught.value.code == "wrong-weights"
    file.unlink()
    with pytest.raises(UserError) as caught:
        ImageTo3D(SHAP_E, device="cpu")
    assert caught.value.code == "missing-weights"
    assert str(SHAP_E.local_dir) in caught.value.hint
    settings = read_settings(load_recipe("reconstruction"), "sd15")
    (weights,) = Reconstruction.count_work(settings, BASE_MODELS["sd15"]).weights
    ((name, n_bytes),) = weights.find_missing().items()
    assert SHAP_E.hub in name and n_bytes == 4 * SHAP_E.n_parameters


def test_shap_e_and_a_real_base_models_layout_draw_together(snapshot, dog, shared_cache, tmp_path):
    write_sd_folder(tmp_path / "sd15")
    base = find_base_model(f"sd15={tmp_path / 'sd15'}")
    recipe = load_recipe("reconstruction").change("sd15", {"shape_steps": 1, "n_cells": 12})
    method = make_method(recipe, context(shared_cache, base_model=base))
    out = tmp_path / "dog"
    out.mkdir()
    method.fit(dog, out, seed=3)
    images = method.load(dog, out).generate(["a {subject} seen from the back", "a dog"], [1, 2])
    assert [image.size for image in images] == [(64, 64)] * 2


# The recipe


@pytest.mark.parametrize(
    "change", [{"shape_steps": 4}, {"shape_guidance": 1.0}, {"shape": "shap-e-img2img"}]
)
def test_numbers_of_a_model_that_is_not_there_are_refused(change, shared_cache):
    with pytest.raises(UserError):
        make(shared_cache, **change)


def test_an_unknown_model_is_refused():
    settings = read_settings(load_recipe("reconstruction"), "sd15")
    with pytest.raises(UserError) as caught:
        Reconstruction.count_work(settings.model_copy(update={"shape": "x"}), BASE_MODELS["sd15"])
    assert caught.value.code == "unknown-name"


def test_plan_counts_what_is_kept_and_what_is_missing():
    plan = json.loads(invoke("plan", "--method", "reconstruction", "--json").stdout)
    assert plan["weight_bytes"] == 8 * 4 * 48**3
