"""Encoders: shipped ones load by their libraries, brought ones by file, and no batch shows."""

import json

import lpips
import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from dreambench.embed import embed_files
from dreambench.encoders import ENCODERS, Encoder, find_encoder, load_encoder
from dreambench.errors import UserError
from dreambench.files import PACKAGE_DIR, load_image
from dreambench.subjects import find_dataset, load_subjects

WEIGHTS = PACKAGE_DIR / "mini" / "weights"
ROLES = {"dino": "mini-vit", "clip": "mini-clip", "perceptual": "mini-vit-patches"}


def quiet(what, done, total):
    """Stands for no display."""


@pytest.fixture(scope="module")
def photos():
    return [path for s in load_subjects(find_dataset("mini")) for path in s.photos]


@pytest.mark.parametrize("role", ROLES)
def test_embeddings_depend_on_no_batch_size_or_neighbour(role, photos):
    encoder = load_encoder(ROLES[role], role)
    images = [load_image(path) for path in photos]
    whole = encoder.embed_images(images)
    for size in (1, 7):
        assert np.abs(encoder.embed_images(images, batch_size=size) - whole).max() < 1e-6
    assert np.abs(encoder.embed_images(images[::-1])[::-1] - whole).max() < 1e-6
    assert whole.dtype == np.float32


@pytest.mark.parametrize("role", ["dino", "clip"])
def test_embeddings_have_unit_length(role, photos):
    rows = load_encoder(ROLES[role], role).embed_images([load_image(p) for p in photos[:3]])
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)


def test_vit_is_what_timm_loads(photos):
    model = timm.create_model(f"local-dir:{WEIGHTS / 'vit'}", pretrained=True, num_classes=0).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    image = load_image(photos[0])
    with torch.inference_mode():
        theirs = torch.nn.functional.normalize(model(transform(image)[None]), dim=-1)[0].numpy()
    ours = load_encoder("mini-vit", "dino").embed_images([image])[0]
    assert np.abs(ours - theirs).max() < 1e-6


def test_clip_is_what_open_clip_loads(photos):
    name = f"local-dir:{WEIGHTS / 'clip'}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)(["a red dog on the beach"])
    image = load_image(photos[0])
    with torch.inference_mode():
        theirs = model.eval().encode_image(transform(image)[None], normalize=True)[0].numpy()
        words = model.encode_text(tokens, normalize=True)[0].numpy()
    encoder = load_encoder("mini-clip", "clip")
    assert np.abs(encoder.embed_images([image])[0] - theirs).max() < 1e-6
    assert np.abs(encoder.embed_texts(["a red dog on the beach"])[0] - words).max() < 1e-6


def test_perceptual_distance_is_zero_for_itself_and_grows_with_the_change(photos):
    encoder = load_encoder("mini-vit-patches", "perceptual")
    image = load_image(photos[0])
    noise = np.random.default_rng(0).normal(size=(64, 64, 3))
    changed = [
        Image.fromarray(np.clip(np.asarray(image) + level * noise, 0, 255).astype(np.uint8))
        for level in (0, 10, 40)
    ]
    rows = encoder.embed_images([image, *changed]).astype(np.float64)
    gaps = ((rows[1:] - rows[0]) ** 2).sum(1)
    assert gaps[0] < 1e-12
    assert 0 < gaps[1] < gaps[2]


def test_perceptual_distance_is_lpips_formula(photos):
    # LPIPS without learned weights: per layer and patch, squared distance of unit features, mean.
    encoder = load_encoder("mini-vit-patches", "perceptual")
    images = [load_image(path) for path in photos[:2]]
    pixels = torch.stack([torch.from_numpy(encoder.spec.pixels.prepare(i)) for i in images])
    with torch.inference_mode():
        maps = encoder.model.forward_intermediates(
            pixels, indices=[2, 4], output_fmt="NLC", intermediates_only=True
        )
    layers = [torch.nn.functional.normalize(part.double(), dim=-1) for part in maps]
    wanted = np.mean([float(((a[0] - a[1]) ** 2).sum(-1).mean()) for a in layers])
    rows = encoder.embed_images(images).astype(np.float64)
    assert ((rows[0] - rows[1]) ** 2).sum() == pytest.approx(wanted, rel=1e-4)


def test_lpips_is_the_packages_lpips(photos, tmp_path, monkeypatch):
    torch.manual_seed(0)
    folder = tmp_path / "lpips-alex"
    folder.mkdir()
    spec = ENCODERS["lpips-alex"]
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), folder / spec.file)
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    encoder = Encoder(spec, device="cpu")
    reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    reference.net.load_state_dict(encoder.model.net.state_dict())
    images = [load_image(path) for path in photos[:6]]
    pixels = torch.stack([torch.from_numpy(spec.pixels.prepare(image)) for image in images])
    with torch.inference_mode():
        theirs = reference(pixels[:3], pixels[3:]).flatten().numpy()
    rows = encoder.embed_images(images).astype(np.float64)
    ours = ((rows[:3] - rows[3:]) ** 2).sum(1)
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_dino_is_loaded_from_a_file_that_a_user_brought(photos, tmp_path, monkeypatch):
    torch.manual_seed(0)
    spec = ENCODERS["dino-vits16"]
    model = timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0).eval()
    (tmp_path / spec.name).mkdir()
    save_file(model.state_dict(), tmp_path / spec.name / spec.file)
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    encoder = Encoder(spec, device="cpu")
    image = load_image(photos[0])
    with torch.inference_mode():
        theirs = model(torch.from_numpy(spec.pixels.prepare(image))[None])
        theirs = torch.nn.functional.normalize(theirs, dim=-1)[0].numpy()
    assert np.abs(encoder.embed_images([image])[0] - theirs).max() < 1e-6
    first = encoder.identity
    with torch.no_grad():
        model.cls_token += 1e-3
    save_file(model.state_dict(), tmp_path / spec.name / spec.file)
    assert Encoder(spec, device="cpu").identity != first, "other weights are another encoder"


@pytest.mark.parametrize("name", [n for n, s in ENCODERS.items() if s.shipped is None])
def test_weights_that_are_not_there_are_asked_for_by_name_and_place(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    spec = ENCODERS[name]
    with pytest.raises(UserError) as caught:
        Encoder(spec, device="cpu")
    assert f"put it at {tmp_path / name / spec.file}" in str(caught.value)


def test_encoder_of_another_role_is_refused():
    with pytest.raises(UserError, match="no dino encoder named 'mini-clip'"):
        find_encoder("mini-clip", "dino")


def test_cache_is_by_content_and_encoder(photos, tmp_path):
    vit, clip = load_encoder("mini-vit", "dino"), load_encoder("mini-clip", "clip")
    copy = tmp_path / "copy.png"
    copy.write_bytes(photos[0].read_bytes())
    cache = tmp_path / "cache"
    rows = embed_files([photos[0], photos[1]], vit, cache_dir=cache, progress=quiet)
    files = sorted(cache.rglob("*.npy"))
    assert len(files) == 2
    again = embed_files([copy], vit, cache_dir=cache, progress=quiet)
    assert np.array_equal(again[0], rows[0])
    assert sorted(cache.rglob("*.npy")) == files
    embed_files([copy], clip, cache_dir=cache, progress=quiet)
    assert len(list(cache.rglob("*.npy"))) == 3
    names = [json.loads(path.read_text())["identity"] for path in cache.rglob("encoder.json")]
    assert sorted(names) == sorted([vit.identity, clip.identity])


def test_damaged_cache_entry_is_made_again(photos, tmp_path):
    vit = load_encoder("mini-vit", "dino")
    rows = embed_files(photos[:1], vit, cache_dir=tmp_path, progress=quiet)
    file = next(tmp_path.rglob("*.npy"))
    file.write_bytes(file.read_bytes()[:50])
    assert np.array_equal(embed_files(photos[:1], vit, cache_dir=tmp_path, progress=quiet), rows)
