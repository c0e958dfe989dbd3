"""Parts of an image: hashes, the subject that a segmenter finds, and where its files come from."""

import shutil
from dataclasses import replace
from pathlib import Path

import imagehash
import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageOps

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.config.protocol import load_protocol
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.encoders.parts import (
    THUMBNAIL_PX,
    HashExtractor,
    MaskExtractor,
    PartsExtractor,
    ThumbnailExtractor,
    frame_map,
)
from dreambench.encoders.preprocessing import Pixels
from dreambench.encoders.registry import SEGMENTERS, load_encoder
from dreambench.encoders.segmentation import Segmenter, load_segmenter
from dreambench.errors import UserError
from dreambench.mini.training.data import make_identity
from dreambench.mini.world.renderer import Shot, render
from dreambench.mini.world.scenes import PHOTO_PLACES
from dreambench.scoring.tools import prepare_encoders
from dreambench.storage.images import load_image


@pytest.mark.parametrize("size", [(64, 64), (333, 500), (1024, 1024), (20, 31)])
def test_hash_is_that_of_the_whole_image_and_of_its_mirror_image(size):
    picture = render(Shot(make_identity("heldout", 2), 1)).image
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    (row,) = HashExtractor().encode_images([picture])
    for bits, seen in zip(np.split(row, 2), (picture, ImageOps.mirror(picture)), strict=True):
        assert np.array_equal(bits, imagehash.phash(seen).hash.ravel())


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (64, 64)])
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_a_map_is_framed_as_its_image_is(size, fit):
    target = Pixels(80, 64, (0.0,) * 3, (1.0,) * 3, fit=fit)
    # A picture of its own mask: what the network sees is the framed map.
    mask = np.zeros(size[::-1], bool)
    mask[size[1] // 4 : size[1] // 2, size[0] // 3 : size[0] // 2] = True
    seen = target.prepare(Image.fromarray(mask).convert("RGB"))[0] > 0.5
    framed = frame_map(torch.from_numpy(mask.astype(np.float32)), target, size) > 0.5
    assert framed.shape == (64, 64)
    assert (framed.numpy() == seen).mean() > 0.985
    assert seen.any()


def test_minis_segmenter_finds_the_subjects_of_the_benchmark():
    segmenter = load_segmenter("mini-segmenter")
    subjects = load_subjects(find_dataset("mini"))
    shares = []
    for subject in subjects:
        images = [load_image(path) for path in subject.photos]
        for found, path in zip(
            segmenter.find_subjects(images, subject.class_name), subject.masks, strict=True
        ):
            with Image.open(path) as stored:
                true = np.asarray(stored, bool)
            shares.append((found & true).sum() / (found | true).sum())
    assert np.mean(shares) > 0.85
    assert min(shares) > 0.5


def test_masked_embeddings_do_not_see_the_other_part():
    identity = make_identity("heldout", 0)
    dino, clip = load_encoder("mini-vit", "dino"), load_encoder("mini-clip", "clip")
    segmenter = load_segmenter("mini-segmenter")
    reader = PartsExtractor(dino, clip, segmenter, class_name=identity.class_name)
    photo, other = (render(Shot(identity, n, PHOTO_PLACES[n])) for n in range(2))

    def swap(mask):
        return Image.fromarray(
            np.where(mask[..., None], np.asarray(photo.image), np.asarray(other.background))
        )

    images = [photo.image, swap(photo.mask), swap(~photo.mask)]
    rows = reader.encode_masked(images, [photo.mask] * 3)
    whole = dino.encode_images(images)
    parts = reader.split(rows, whole.shape[1])
    for kind, same, changed in (("dino-fg", 1, 2), ("clip-fg", 1, 2), ("dino-bg", 2, 1)):
        assert np.array_equal(parts[kind][0], parts[kind][same]), kind
        assert not np.allclose(parts[kind][0], parts[kind][changed]), kind
        assert np.linalg.norm(parts[kind], axis=1) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(whole[0], whole[1])
    # Without masks the segmenter finds nearly the same.
    found = reader.split(reader.encode_images(images), whole.shape[1])
    assert (found["dino-fg"][0] * parts["dino-fg"][0]).sum() > 0.8
    for used in (dino, clip, segmenter):
        assert used.identity in reader.identity


@pytest.mark.parametrize("size", [(96, 48), (30, 60), (64, 64)])
def test_thumbnails_keep_proportions_and_masks_lie_on_them(size):
    """A white box on black, whose mask is the box: both have to come to lie on each other."""
    box = np.zeros(size[::-1], bool)
    box[size[1] // 4 : size[1] // 2, size[0] // 4 : size[0] // 2] = True
    picture = Image.fromarray(box).convert("RGB")
    side = THUMBNAIL_PX
    (row,) = ThumbnailExtractor().encode_images([picture])
    (mask,) = MaskExtractor.encode_masks([box])
    colours, mask = row.reshape(side, side, 3), mask.reshape(side, side) > 0
    assert colours[mask].min() > 0.85
    rows, columns = np.nonzero(mask)
    scale = side / max(size)
    assert np.ptp(rows) + 1 == pytest.approx(size[1] / 4 * scale, abs=2)
    assert np.ptp(columns) + 1 == pytest.approx(size[0] / 4 * scale, abs=2)
    bars = [(side - round(length * scale)) // 2 for length in size]
    assert colours[:, : bars[0]].sum() == colours[: bars[1]].sum() == 0


def test_a_segmenters_mask_is_that_of_the_whole_image_made_small():
    segmenter = load_segmenter("mini-segmenter")
    photos = [load_image(path) for path in load_subjects(find_dataset("mini"))[0].photos]
    extractor = MaskExtractor(segmenter, class_name="dog")
    found = extractor.encode_pixels(np.stack([extractor.pixels.prepare(one) for one in photos]))
    wanted = MaskExtractor.encode_masks(segmenter.find_subjects(photos, "dog"))
    assert np.array_equal(found, wanted)
    assert found.any(1).all()
    assert segmenter.identity in extractor.identity


@pytest.fixture(scope="module")
def clipseg_folder(tmp_path_factory):
    """CLIPSeg's architecture, small and random, in the hub's layout."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights") / "clipseg"
    tokenizer = transformers.CLIPTokenizer.from_pretrained(
        BASE_MODELS["mini"].location, subfolder="tokenizer"
    )
    text = transformers.CLIPSegTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=37, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision = transformers.CLIPSegVisionConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=3, num_attention_heads=4,
        image_size=352, patch_size=32,
    )  # fmt: skip
    config = transformers.CLIPSegConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=32,
        reduce_dim=16, extract_layers=[0, 1], decoder_num_attention_heads=4,
        decoder_intermediate_size=32, conditional_layer=0, use_complex_transposed_convolution=True,
    )  # fmt: skip
    model = transformers.CLIPSegForImageSegmentation(config)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn_like(value))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(BASE_MODELS["mini"].location) / "tokenizer" / name, folder)
    return folder


def test_clipseg_is_asked_for_the_class_and_is_what_transformers_computes(
    clipseg_folder, monkeypatch
):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(clipseg_folder.parent))
    spec = SEGMENTERS["clipseg"]
    segmenter = Segmenter(spec, device="cpu")
    images = [load_image(p).resize((90, 70)) for p in load_subjects(find_dataset("mini"))[0].photos]
    found = segmenter.find_subjects(images, "dog")
    assert [mask.shape for mask in found] == [(70, 90)] * len(images)
    reference = transformers.CLIPSegForImageSegmentation.from_pretrained(clipseg_folder).eval()
    tokens = segmenter.tokenizer(["a dog"] * 2, return_tensors="pt")
    pixels = torch.stack([torch.from_numpy(spec.pixels.prepare(image)) for image in images[:2]])
    with torch.inference_mode():
        logits = reference(**tokens, pixel_values=pixels).logits
    for row, mask in zip(logits, found, strict=False):
        full = torch.nn.functional.interpolate(row[None, None], (70, 90), mode="bilinear")[0, 0]
        assert (mask == (full.sigmoid() > 0.5).numpy()).mean() > 0.999
    alone = segmenter.find_subjects(images[:1], "dog")[0]
    assert (alone == found[0]).mean() > 0.999
    dino, clip = load_encoder("mini-vit", "dino"), load_encoder("mini-clip", "clip")
    reader = PartsExtractor(dino, clip, segmenter, class_name="dog")
    assert reader.identity.endswith("|asked:dog")
    rows = reader.encode_images(images)
    assert np.abs(reader.encode_images(images[:1]) - rows[:1]).max() < 1e-5


def test_segmenter_that_is_not_there_names_the_files_to_download(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    spec = SEGMENTERS["clipseg"]
    with pytest.raises(UserError) as caught:
        Segmenter(spec, device="cpu")
    assert caught.value.code == "missing-weights"
    facts = [*spec.files, spec.hub, spec.revision, str(tmp_path / "clipseg")]
    assert all(fact in caught.value.hint for fact in facts)
    (tmp_path / "clipseg").mkdir()
    for name in spec.files:
        (tmp_path / "clipseg" / name).write_text("{}")
    with pytest.raises(UserError) as caught:
        _ = Segmenter(spec, device="cpu").model
    assert caught.value.code == "unreadable-file"
    assert str(tmp_path / "clipseg" / "model.safetensors") in caught.value.problem
    lost = replace(SEGMENTERS["mini-segmenter"], name="lost", shipped="lost")
    with pytest.raises(UserError) as caught:
        Segmenter(lost, device="cpu")
    assert caught.value.code == "missing-weights"


def test_a_segmenter_of_the_hub_is_fetched_at_its_pinned_revision(
    clipseg_folder, tmp_path, monkeypatch
):
    spec, asked = SEGMENTERS["clipseg"], []

    def download(hub, *, revision, allow_patterns):
        asked.append((hub, revision, allow_patterns))
        return shutil.copytree(clipseg_folder, tmp_path / "clipseg")

    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert spec.find_local() is None
    mini = load_protocol("mini")
    other = mini.model_copy(
        update={"encoders": mini.encoders.model_copy(update={"segmenter": "clipseg"})}
    )
    for _ in range(2):
        prepare_encoders(other)
    assert asked == [(spec.hub, spec.revision, list(spec.files))]
    assert len(str(spec.revision)) == 40
    found = load_segmenter("clipseg")
    assert found.spec == spec
    assert found.find_subjects([Image.new("RGB", (40, 30))], "dog")[0].shape == (30, 40)
    load_segmenter.cache_clear()
