"""Latents of a VQGAN that CLIP steers: mini's networks, folders of other ones, and a whole run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY_PROTOCOL, invoke
from diffusers import VQModel
from PIL import Image
from small_pipelines import context, pixels, subjects
from transformers import CLIPTokenizer

from dreambench.analysis.comparison import load_comparable
from dreambench.artifacts.image_set import read_image_set
from dreambench.artifacts.steering import describe_steering
from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.config.recipe import load_recipe
from dreambench.encoders.registry import ENCODERS, load_encoder
from dreambench.errors import UserError
from dreambench.methods.guidance.clip_guidance import (
    ClipGuidance,
    ClipGuidanceSettings,
    cut_crops,
    measure_angles,
)
from dreambench.methods.guidance.vqgan import VQGAN, VQGANS, WEIGHTS, VQGANSpec
from dreambench.methods.registry import describe_track, make_method
from dreambench.mini.training.encoders import CLIP_2_CONFIG, make_clip, write_clip
from dreambench.report.notes import make_image_notes

PROMPTS = ["a red {subject}", "a {subject} on the beach", "a mug"]
SEEDS = [10, 11, 12]
MINI = ClipGuidanceSettings(
    vqgan="mini-vqgan", steered_by="mini-clip", n_steps=4, learning_rate=0.1, n_crops=2,
    smallest_crop=0.5, noise=0.1, image_weight=1.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def mug():
    return subjects("mug")[0]


@pytest.fixture(scope="module")
def make_images(shared_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nothing")

    def make(subject, prompts=PROMPTS, seeds=SEEDS, **changes):
        method = ClipGuidance(MINI.model_copy(update=changes), context(shared_cache))
        return method.load(subject, folder).generate(prompts, seeds)

    return make


def test_it_sees_photos_and_trains_nothing():
    recipe = load_recipe("clip-guidance")
    assert describe_track(recipe, "mini") == "tuning-free, all photos"
    work = ClipGuidance.count_work(MINI, BASE_MODELS["mini"])
    vqgan = VQGAN(VQGANS["mini-vqgan"], device="cpu").network
    assert work.other_parameters == sum(p.numel() for p in vqgan.parameters())
    assert [one.find_missing() for one in work.weights] == [{}, {}]
    assert work.optimizer_steps == work.trained_parameters == 0


def test_steps_bring_images_nearer_to_the_prompt(make_images, mug):
    clip = load_encoder("mini-clip", "clip")
    (row,) = clip.encode_texts(["a red mug"])
    few, many = (
        make_images(mug, PROMPTS[:1], SEEDS[:1], n_steps=n, image_weight=0.0) for n in (1, 16)
    )
    likeness = [float(clip.encode_images(images)[0] @ row) for images in (few, many)]
    assert likeness[1] > likeness[0] + 0.1


def test_a_weight_on_the_photos_keeps_images_near_them(make_images, mug):
    clip = load_encoder("mini-clip", "clip")
    photos = clip.encode_images([Image.open(path).convert("RGB") for path in mug.photos])
    free, held = (
        make_images(mug, PROMPTS[:1], SEEDS[:1], n_steps=12, image_weight=weight)
        for weight in (0.0, 4.0)
    )
    near = [float((clip.encode_images(images) @ photos.T).mean()) for images in (free, held)]
    assert near[1] > near[0]


def test_an_image_depends_on_its_prompt_and_seed_alone(make_images, mug):
    together = pixels(make_images(mug))
    for row in range(len(PROMPTS)):
        alone = pixels(make_images(mug, PROMPTS[row : row + 1], SEEDS[row : row + 1]))[0]
        assert np.array_equal(together[row], alone)
    assert np.array_equal(together, pixels(make_images(mug)))
    others = pixels(make_images(mug, seeds=[seed + len(mug.photos) for seed in SEEDS]))
    assert all(not np.array_equal(a, b) for a, b in zip(together, others, strict=True))


def test_class_images_are_made_without_photos(make_images, mug):
    (teapot,) = subjects("teapot")
    of_mug, of_teapot = (pixels(make_images(one, n_steps=2)) for one in (mug, teapot))
    assert np.array_equal(of_mug[2], of_teapot[2])
    assert not np.array_equal(of_mug[0], of_teapot[0])


def test_crops_are_parts_of_the_image(mug):
    photo = np.asarray(Image.open(mug.photos[0]).convert("RGB"), np.float32) / 255
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].requires_grad_(True)
    noise = torch.Generator().manual_seed(3)
    whole = cut_crops(image, 8, side_px=64, smallest=1.0, noise=noise).detach()
    is_same = [torch.allclose(one, image[0], atol=1e-5) for one in whole]
    is_mirrored = [torch.allclose(one, image[0].flip(-1), atol=1e-5) for one in whole]
    assert all(a != b for a, b in zip(is_same, is_mirrored, strict=True))
    assert any(is_same)
    assert any(is_mirrored)
    half = Image.fromarray((photo * 255).astype(np.uint8)).resize(
        (32, 32), Image.Resampling.BILINEAR
    )
    small = cut_crops(image, 1, side_px=32, smallest=1.0, noise=torch.Generator().manual_seed(1))
    found = small[0].detach().permute(1, 2, 0).numpy()
    wanted = np.asarray(half) / 255
    gaps = [np.abs(found - one).max() for one in (wanted, wanted[:, ::-1])]
    assert min(gaps) < 0.01
    parts = cut_crops(image, 6, side_px=64, smallest=0.3, noise=noise)
    (gradient,) = torch.autograd.grad(parts.sum(), [image])
    assert float(gradient.abs().sum()) > 0
    # A mean of pixels: nothing is beyond them, and a flat image stays one.
    assert image.min() - 1e-5 <= parts.min()
    assert parts.max() <= image.max() + 1e-5
    flat = cut_crops(torch.full((1, 3, 64, 64), 0.25), 6, side_px=48, smallest=0.3, noise=noise)
    assert torch.allclose(flat, torch.tensor(0.25), atol=1e-6)


def test_angles_are_those_between_rows():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5**0.5, 0.5**0.5]])
    found = measure_angles(rows[:1], rows)[0]
    assert found[1:].tolist() == pytest.approx([(np.pi / 2) ** 2 / 2, (np.pi / 4) ** 2 / 2])
    same = rows[:1].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(measure_angles(same, rows[:1]).sum(), [same])
    assert torch.isfinite(gradient).all()


# Other networks


def write_vqgan(folder, *, n_levels=5):
    """A random `VQModel` of aMUSEd's shape: reduction 16, codes looked up by their numbers."""
    torch.manual_seed(4)
    VQModel(
        down_block_types=("DownEncoderBlock2D",) * n_levels,
        up_block_types=("UpDecoderBlock2D",) * n_levels, block_out_channels=(8,) * n_levels,
        latent_channels=6, num_vq_embeddings=32, norm_num_groups=4, layers_per_block=1,
        mid_block_add_attention=False, lookup_from_codebook=True, force_upcast=True,
    ).save_pretrained(folder)  # fmt: skip


@pytest.fixture
def amused(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights" / "amused-vqgan" / "vqvae"


@pytest.fixture
def other_clip(tmp_path, monkeypatch):
    """An open_clip snapshot of random weights, under the name of a real encoder."""
    tokenizer = CLIPTokenizer.from_pretrained(BASE_MODELS["mini"].location, subfolder="tokenizer")
    torch.manual_seed(5)
    write_clip(make_clip(CLIP_2_CONFIG), tokenizer, CLIP_2_CONFIG, tmp_path / "clip")
    name = "clip-vit-b-32"
    spec = replace(ENCODERS["mini-clip"], name=name, shipped=str(tmp_path / "clip"))
    monkeypatch.setitem(ENCODERS, name, spec)
    return name


def make_other(shared_cache, **changes):
    recipe = load_recipe("clip-guidance").change("sd15", {"n_steps": 2, "n_crops": 2, **changes})
    return make_method(recipe, context(shared_cache, base_model=BASE_MODELS["sd15"]))


def test_folders_of_a_vqmodel_and_of_open_clip_are_loaded_by_name(
    amused, other_clip, shared_cache, tmp_path, mug
):
    write_vqgan(amused)
    method = make_other(shared_cache)
    assert method.vqgan.reduction == 16
    assert method.clip.spec.name == other_clip
    images = method.load(mug, tmp_path).generate(PROMPTS, SEEDS)
    assert [image.size for image in images] == [(64, 64)] * 3
    # What is decoded are codes, as diffusers decodes them.
    network = VQModel.from_pretrained(amused)
    latents = torch.randn((1, 6, 4, 4), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = network.decode(latents).sample
        assert torch.equal(method.vqgan.decode(latents), (theirs + 1) / 2)


def test_weights_that_are_not_here_or_not_right_are_named(amused, other_clip, shared_cache):
    with pytest.raises(UserError) as caught:
        make_other(shared_cache)
    assert caught.value.code == "missing-weights"
    assert str(amused.parent) in caught.value.hint
    settings = MINI.model_copy(update={"vqgan": "amused-vqgan"})
    vqgan, _ = ClipGuidance.count_work(settings, BASE_MODELS["sd15"]).weights
    (missing,) = vqgan.find_missing().items()
    assert missing[0].startswith("amused-vqgan")
    assert missing[1] == 4 * VQGANS["amused-vqgan"].n_parameters
    write_vqgan(amused)
    whole = (amused / WEIGHTS).read_bytes()
    (amused / WEIGHTS).write_bytes(whole[:-100])
    with pytest.raises(UserError) as caught:
        make_other(shared_cache)
    assert caught.value.code == "unreadable-file"
    (amused / WEIGHTS).write_bytes(whole)
    config = json.loads((amused / "config.json").read_text())
    (amused / "config.json").write_text(json.dumps({**config, "num_vq_embeddings": 16}))
    with pytest.raises(UserError) as caught:
        make_other(shared_cache)
    assert caught.value.code == "wrong-weights"


def test_names_and_sizes_that_cannot_be_are_refused(amused, other_clip, shared_cache):
    with pytest.raises(UserError) as caught:
        make_other(shared_cache, vqgan="amused")
    assert caught.value.code == "unknown-name"
    with pytest.raises(UserError) as caught:
        make_other(shared_cache, steered_by="mini-vit")
    assert caught.value.code == "unknown-name"
    write_vqgan(amused, n_levels=8)
    with pytest.raises(UserError) as caught:
        make_other(shared_cache)
    assert caught.value.code == "invalid-value"


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory, shared_cache):
    folder = tmp_path_factory.mktemp("guided")
    (folder / "tiny.toml").write_text(TINY_PROTOCOL)
    words = [
        "run", "--method", "clip-guidance", "--set", "n_steps=2", "--set", "n_crops=1",
        "--protocol", folder / "tiny.toml", "--alongside", "",
        "--cache", shared_cache, "--out", folder / "runs",
    ]  # fmt: skip
    invoke(*words)
    (made,) = (folder / "runs" / "tiny").iterdir()
    return made, words


def read_scored(folder):
    (scored,) = load_comparable([read_image_set(folder)])
    return scored


def test_the_row_says_which_encoder_steered(run):
    lines = [line for line in make_image_notes([read_scored(run[0])]) if "steered" in line]
    assert len(lines) == 1
    assert "mini-clip" in lines[0]
    assert describe_steering({"steered_by": "", "n_steps": 2}) == describe_steering(None) == []
    assert describe_steering({"steered_by": ["mini-clip"]}) == []


def test_plan_and_the_boards_page_say_it_too(run, tmp_path):
    (line,) = describe_steering({"steered_by": "mini-clip"})
    plan = json.loads(invoke("plan", "--method", "clip-guidance", "--json").stdout)
    assert plan["notes"] == [line]
    # Its networks are counted, and how often they are called is not.
    assert plan["memory_bytes"] > 4 * VQGANS["mini-vqgan"].n_parameters
    assert plan["hours"] == {"training": None, "generating": None}
    invoke("submit", run[0], "--sample", "0", "--out", tmp_path / "records")
    words = ("--records", tmp_path / "records", "--out", tmp_path / "board")
    invoke("leaderboard", "render", *words)
    pages = [page.read_text() for page in (tmp_path / "board").rglob("*.html")]
    assert any("steered by the encoder mini-clip" in page for page in pages)


def test_a_run_that_was_killed_repeats_nothing(run):
    made, words = run
    images = sorted((made / "images").rglob("*.png"))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in images}
    images[0].unlink()
    invoke(*words)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in images}
    assert [path for path in images if before[path][0] != after[path][0]] == images[:1]
    assert after[images[0]][1] == before[images[0]][1]


def test_another_clip_scores_the_same_images_apart(run, tmp_path):
    made, words = run
    protocol, cache = words[words.index("--protocol") + 1], words[words.index("--cache") + 1]
    invoke(
        "score", made / "images", "--protocol", protocol, "--encoder", "clip=mini-clip-2",
        "--name", "by-another", "--out", tmp_path, "--cache", cache,
    )  # fmt: skip
    (scored,) = (tmp_path / "tiny").iterdir()
    first, second = read_scored(made).summary, read_scored(scored).summary
    assert first.metrics["dino"].whole.mean == pytest.approx(second.metrics["dino"].whole.mean)
    assert first.metrics["clip-t"].whole.mean != second.metrics["clip-t"].whole.mean
    assert "mini-clip-2@" in second.metrics["clip-t"].info.signature


def test_a_spec_of_the_package_says_where_it_is():
    spec = VQGANS["mini-vqgan"]
    assert spec.find_local().is_dir()
    gone = VQGANSpec(name="gone", n_parameters=10, shipped="no-such-folder")
    assert gone.find_missing()
