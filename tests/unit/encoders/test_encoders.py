"""Encoders: shipped ones load by their libraries, others by file, and no batch shows."""

import hashlib
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lpips
import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from PIL import Image

from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.encoders.registry import (
    ENCODERS,
    describe_encoders,
    find_encoder,
    load_encoder,
    make_encoder,
)
from dreambench.encoders.segmentation import load_segmenter
from dreambench.encoders.weights import read_weights
from dreambench.errors import UserError
from dreambench.storage.images import load_image
from dreambench.storage.shipped import PACKAGE_DIR

WEIGHTS = PACKAGE_DIR / "mini" / "weights"
ROLES = {"dino": "mini-vit", "clip": "mini-clip", "perceptual": "mini-vit-patches"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Digests of weights are kept in a cache; not in the user's."""
    monkeypatch.setenv("DREAMBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def photos():
    return [path for s in load_subjects(find_dataset("mini")) for path in s.photos]


@pytest.mark.parametrize("role", ROLES)
def test_embeddings_depend_on_no_batch_size_or_neighbour(role, photos):
    encoder = load_encoder(ROLES[role], role)
    images = [load_image(path) for path in photos]
    whole = encoder.encode_images(images)
    for size in (1, 7):
        assert np.abs(encoder.encode_images(images, batch_size=size) - whole).max() < 1e-6
    assert np.abs(encoder.encode_images(images[::-1])[::-1] - whole).max() < 1e-6
    assert whole.dtype == np.float32


@pytest.mark.parametrize("name", ["mini-vit", "mini-clip", "mini-segmenter"])
def test_networks_are_exact_whatever_the_process_has_set(name, photos):
    images, seen = [load_image(photos[0])], []
    if name == "mini-segmenter":
        network = load_segmenter(name)
    else:
        network = load_encoder(name, "dino" if name == "mini-vit" else "clip")

    def look(*_):
        precision = torch.get_float32_matmul_precision()
        seen.append((precision, torch.backends.cudnn.allow_tf32, torch.is_inference_mode_enabled()))

    modules = network.model.modules()
    handles = [module.register_forward_pre_hook(look) for module in modules]
    torch.set_float32_matmul_precision("medium")
    try:
        if name == "mini-segmenter":
            network.find_subjects(images, "dog")
        else:
            network.encode_images(images)
        if name == "mini-clip":
            network.encode_texts(["a dog"])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
        for handle in handles:
            handle.remove()
    assert set(seen) == {("highest", False, True)}


@pytest.mark.parametrize("role", ["dino", "clip"])
def test_embeddings_have_unit_length(role, photos):
    rows = load_encoder(ROLES[role], role).encode_images([load_image(p) for p in photos[:3]])
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)


def test_vit_is_what_timm_loads(photos):
    model = timm.create_model(f"local-dir:{WEIGHTS / 'vit'}", pretrained=True, num_classes=0).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    image = load_image(photos[0])
    with torch.inference_mode():
        theirs = torch.nn.functional.normalize(model(transform(image)[None]), dim=-1)[0].numpy()
    ours = load_encoder("mini-vit", "dino").encode_images([image])[0]
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
    assert np.abs(encoder.encode_images([image])[0] - theirs).max() < 1e-6
    assert np.abs(encoder.encode_texts(["a red dog on the beach"])[0] - words).max() < 1e-6


def test_perceptual_distance_is_zero_for_itself_and_grows_with_the_change(photos):
    encoder = load_encoder("mini-vit-patches", "perceptual")
    image = load_image(photos[0])
    noise = np.random.default_rng(0).normal(size=(64, 64, 3))
    changed = [
        Image.fromarray(np.clip(np.asarray(image) + level * noise, 0, 255).astype(np.uint8))
        for level in (0, 10, 40)
    ]
    rows = encoder.encode_images([image, *changed]).astype(np.float64)
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
    rows = encoder.encode_images(images).astype(np.float64)
    assert ((rows[0] - rows[1]) ** 2).sum() == pytest.approx(wanted, rel=1e-4)


def test_lpips_is_the_packages_lpips(photos, tmp_path, monkeypatch):
    torch.manual_seed(0)
    folder = tmp_path / "lpips-alex"
    folder.mkdir()
    spec = ENCODERS["lpips-alex"]
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), folder / spec.file)
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    encoder = make_encoder(spec)
    reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    reference.net.load_state_dict(encoder.model.net.state_dict())
    images = [load_image(path) for path in photos[:6]]
    pixels = torch.stack([torch.from_numpy(spec.pixels.prepare(image)) for image in images])
    with torch.inference_mode():
        theirs = reference(pixels[:3], pixels[3:]).flatten().numpy()
    rows = encoder.encode_images(images).astype(np.float64)
    ours = ((rows[:3] - rows[3:]) ** 2).sum(1)
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_dino_is_loaded_from_a_file_that_a_user_put_in_place(photos, tmp_path, monkeypatch):
    torch.manual_seed(0)
    spec = ENCODERS["dino-vits16"]
    model = timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0).eval()
    (tmp_path / spec.name).mkdir()
    torch.save(model.state_dict(), tmp_path / spec.name / spec.file)
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    encoder = make_encoder(spec)
    image = load_image(photos[0])
    with torch.inference_mode():
        theirs = model(torch.from_numpy(spec.pixels.prepare(image))[None])
        theirs = torch.nn.functional.normalize(theirs, dim=-1)[0].numpy()
    assert np.abs(encoder.encode_images([image])[0] - theirs).max() < 1e-6
    first = encoder.identity
    with torch.no_grad():
        model.cls_token += 1e-3
    torch.save(model.state_dict(), tmp_path / spec.name / spec.file)
    assert make_encoder(spec).identity != first, "other weights are another encoder"


@pytest.mark.parametrize("name", [n for n, s in ENCODERS.items() if s.shipped is None])
def test_weights_that_are_not_there_are_asked_for_by_name_and_place(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    spec = ENCODERS[name]
    with pytest.raises(UserError) as caught:
        make_encoder(spec)
    assert caught.value.code == "missing-weights"
    assert f"put it at {tmp_path / (spec.stored_as or name) / spec.file}" in str(caught.value)


@pytest.mark.parametrize("name", ["dino-vits16", "clip-vit-b-32", "lpips-alex"])
def test_nobody_is_told_that_a_network_is_random_whose_weights_are_there(
    name, tmp_path, monkeypatch, capfd, recwarn, caplog
):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    made = {
        "dino-vits16": lambda: timm.create_model("vit_small_patch16_224.dino", num_classes=0),
        "clip-vit-b-32": lambda: open_clip.create_model("ViT-B-32-quickgelu"),
        "lpips-alex": lambda: torchvision.models.alexnet(weights=None),
    }[name]()
    (tmp_path / name).mkdir()
    torch.save(made.state_dict(), tmp_path / name / ENCODERS[name].file)
    recwarn.clear()
    caplog.clear()
    capfd.readouterr()
    encoder = make_encoder(ENCODERS[name])
    assert encoder.model is not None
    assert [str(warning.message) for warning in recwarn] == []
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")


def test_encoder_of_another_role_is_refused():
    with pytest.raises(UserError, match="mini-clip") as caught:
        find_encoder("mini-clip", "dino")
    assert caught.value.code == "unknown-name"


def test_weights_of_a_web_server_are_downloaded_once_with_progress(
    photos, tmp_path, monkeypatch, server
):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    server.files["/w.pth"] = buffer.getvalue()
    spec = replace(ENCODERS["dino-vits16"], url=f"{server.url}/w.pth")
    with pytest.raises(UserError) as caught:
        spec.identity()
    assert (caught.value.code, server.asked) == ("missing-weights", [])
    heard = []
    spec.ensure_weights(lambda what, done, total: heard.append((done, total)))
    spec.ensure_weights()
    first = spec.identity()
    assert heard[-1][0] == heard[-1][1] > 0
    assert (tmp_path / spec.name / spec.file).read_bytes() == buffer.getvalue()
    assert make_encoder(spec).identity == first
    assert len(server.asked) == 1
    gone = replace(spec, url=f"{server.url}/gone.pth", name="other")
    with pytest.raises(UserError, match=r"404.*put it at") as caught:
        gone.ensure_weights()
    assert caught.value.code == "missing-weights"


def test_downloaded_weights_that_are_not_the_published_ones_are_not_kept(
    tmp_path, monkeypatch, server
):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    server.files["/w.pth"] = b"other weights"
    spec = replace(ENCODERS["lpips-alex"], url=f"{server.url}/w.pth")
    with pytest.raises(UserError) as caught:
        spec.ensure_weights()
    assert caught.value.code == "changed-data"
    assert spec.sha256 in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*") if path.suffix != ".lock"] == [
        spec.name, "incoming",
    ]  # fmt: skip
    right = replace(spec, sha256=hashlib.sha256(b"other weights").hexdigest())
    right.ensure_weights()
    assert (tmp_path / spec.name / spec.file).read_bytes() == b"other weights"


def test_published_digests_are_those_that_file_names_carry():
    for spec in ENCODERS.values():
        carried = re.search(r"-([0-9a-f]{8})\.pth$", spec.url or "")
        assert carried is None or spec.sha256.startswith(carried[1])
        assert re.fullmatch(r"([0-9a-f]{64})?", spec.sha256)


def test_what_is_listed_tells_encoders_apart():
    rows = describe_encoders()
    assert [row["name"] for row in rows[: len(ENCODERS)]] == list(ENCODERS)
    assert len({row["text"] for row in rows}) == len(rows)
    assert {row["name"]: row["revision"] for row in rows}["clip-vit-b-32"] is not None
    assert json.dumps(rows)


def test_encoders_are_found_and_listed_without_torch():
    code = (
        "import sys, dreambench.cli; from dreambench.encoders import registry as r;"
        "r.describe_encoders(); r.find_segmenter('clipseg');"
        "r.choose_encoders({'dino': 'mini-vit'})['dino'].identity();"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Evil:
    """Runs code when unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("evil-was-run"),))


def test_a_torchscript_archive_is_named_and_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    spec = ENCODERS["clip-vit-b-32"]
    path = tmp_path / spec.name / spec.file
    path.parent.mkdir()
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(UserError) as caught:
        _ = make_encoder(spec).model
    assert caught.value.code == "unreadable-file"
    assert str(path) in caught.value.problem and "TorchScript" in caught.value.problem
    # The way out that it names works.
    code = caught.value.hint.partition('python -c "')[2].rstrip('"')
    monkeypatch.chdir(path.parent)
    exec(code, {})
    assert read_weights(path.with_name("weights.bin")).keys() == {"weight", "bias"}


@pytest.mark.parametrize("content", ["evil", "text", "empty", "list", "other network"])
def test_a_weights_file_that_is_no_such_thing_is_refused_and_not_run(
    content, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    spec = ENCODERS["dino-vits16"]
    path = tmp_path / spec.name / spec.file
    path.parent.mkdir()
    if content in {"text", "empty"}:
        path.write_text("hello" if content == "text" else "")
    else:
        things = {"evil": {"cls_token": Evil()}, "list": [torch.zeros(1)]}
        torch.save(things.get(content, {"cls_token": torch.zeros(3)}), path)
    with pytest.raises(UserError) as caught:
        _ = make_encoder(spec).model
    assert caught.value.code == (
        "wrong-weights" if content == "other network" else "unreadable-file"
    )
    assert str(path) in str(caught.value)
    assert not (tmp_path / "evil-was-run").exists()


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html>log in</html>", "web page"),
        (b"", "empty"),
        (b"\0" * 5000, "zero bytes"),
    ],
)
@pytest.mark.parametrize("name", ["weights.bin", "weights.safetensors"])
def test_what_lies_in_the_place_of_weights_is_named(tmp_path, name, content, fact):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=fact) as caught:
        read_weights(tmp_path / name)
    assert caught.value.code == "unreadable-file" and caught.value.hint


def test_a_weights_file_that_was_cut_says_so(tmp_path):
    from safetensors.torch import save_file  # noqa: PLC0415

    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="cut off: it has 300 of"):
        read_weights(path)
