"""Measures that a copier cannot win: known answers, and the segmenter that some of them need."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import imagehash
import numpy as np
import pytest
import torch
import transformers
from conftest import REPOSITORY
from dreambench.metrics.metrics import METRICS
from dreambench.scoring.measures import open_segmenter
from PIL import Image, ImageOps

from dreambench.base_models.registry import BASE_MODELS
from dreambench.config.protocol import load_protocol
from dreambench.datasets.subjects import find_dataset, load_subjects
from dreambench.encoders.parts import HashExtractor, PartsExtractor, frame_map
from dreambench.encoders.preprocessing import Pixels
from dreambench.encoders.registry import SEGMENTERS, load_encoder
from dreambench.encoders.segmentation import Segmenter, load_segmenter
from dreambench.errors import UserError
from dreambench.metrics import measures as m
from dreambench.mini.validation.truth import make_true_subject
from dreambench.scoring.scores import encoder_identities
from dreambench.storage.images import load_image


def unit(rng, n, d=16, around=None, spread=1.0):
    rows = rng.normal(size=(n, d)) * spread + (0 if around is None else around)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def world():
    """Photos of a subject, photos of others, new pictures of it: clouds around two directions."""
    rng = np.random.default_rng(0)
    own, other = unit(rng, 1)[0], unit(rng, 1)[0]
    return {
        "photos": unit(rng, 5, around=own, spread=0.12),
        "others": unit(rng, 9, around=other, spread=0.12),
        "new": unit(rng, 40, around=own, spread=0.12),
        "rng": rng,
    }


def test_left_out_similarity_by_hand():
    photos = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    image = np.array([[1, 0]], np.float32)
    # Cosines 1, 0, 0.6: the nearest is left out.
    assert m.compute_left_out_similarity(image, photos) == pytest.approx([0.3])
    assert np.isnan(m.compute_left_out_similarity(image, photos[:1])).all()


def test_a_copy_earns_what_a_photo_earns_and_no_more(world):
    photos = world["photos"]
    copies = m.compute_left_out_similarity(photos, photos)
    assert copies == pytest.approx(m.compute_left_self_out(photos))
    floor, ceiling = m.compute_anchors(photos, world["others"])
    assert m.normalise(copies, floor, ceiling).mean() == pytest.approx(1)
    strangers = m.compute_left_out_similarity(world["others"], photos)
    assert abs(m.normalise(strangers, floor, ceiling).mean()) < 0.2


def test_normalising_between_equal_anchors_is_not_a_number():
    assert np.isnan(m.normalise(np.array([0.5]), 0.4, 0.4)).all()
    assert np.isnan(m.normalise(np.array([0.5]), np.nan, 0.4)).all()


def test_copy_index_is_one_for_a_copy_and_zero_for_real_photos(world):
    photos = world["photos"]
    assert m.compute_copy_index(photos, photos) == pytest.approx(np.ones(5))
    # Each photo against the others: two real photos are never called copies.
    for index in range(5):
        others = np.delete(photos, index, axis=0)
        gaps = photos @ photos.T - 2 * np.eye(5)
        if gaps[index].max() < gaps[np.ix_(*[[i for i in range(5) if i != index]] * 2)].max():
            assert m.compute_copy_index(photos[index : index + 1], others) == [0]
    assert m.compute_copy_index(world["others"], photos).max() == 0
    twice = np.concatenate([photos, photos[:1]])
    assert np.isnan(m.compute_copy_index(world["new"], twice)).all()


def test_leak_by_hand():
    photos = np.array([[1, 0]], np.float32)
    others = np.array([[0.6, 0.8], [0.2, np.sqrt(0.96)]], np.float32)
    images = np.array([[1, 0], [0.7, np.sqrt(0.51)], [0, 1]], np.float32)
    # In common 0.4: (1 - 0.4) / 0.6, (0.7 - 0.4) / 0.6, and below nothing.
    assert m.compute_leak(images, photos, others) == pytest.approx([1, 0.5, 0], abs=1e-6)
    assert np.isnan(m.compute_leak(images, photos, others[:0])).all()


def test_retrieval_by_hand_and_against_the_definition(world):
    photos = np.array([[1, 0], [0.8, 0.6]], np.float32)
    distractors = np.array([[0.96, 0.28], [0, 1]], np.float32)
    image = np.array([[1, 0]], np.float32)
    # Ranking: photo (1), distractor (.96), photo (.8), distractor (0): AP = (1/1 + 2/3) / 2.
    first, precision = m.compute_retrieval(image, photos, distractors)
    assert first == [1]
    assert precision == pytest.approx([(1 + 2 / 3) / 2])
    # A distractor that is as near as the nearest photo counts before it.
    first, _ = m.compute_retrieval(image, photos, photos[:1])
    assert first == [0]
    rng = world["rng"]
    images, own, foreign = unit(rng, 20, 4), unit(rng, 3, 4), unit(rng, 7, 4)
    first, precision = m.compute_retrieval(images, own, foreign)
    for row, image in enumerate(images):
        cosines = np.concatenate([own, foreign]) @ image
        hits = np.argsort(-cosines) < 3
        ranks = np.flatnonzero(hits) + 1
        assert precision[row] == pytest.approx(np.mean(np.arange(1, 4) / ranks))
        assert first[row] == float(hits[0])


def test_prompt_rank_by_hand():
    texts = np.eye(4, dtype=np.float32)
    image = np.array([[0.5, 0.1, 0.6, 0.5]], np.float32)
    # Its own text is the first: one is better, one is less, one ties.
    assert m.compute_prompt_rank(image, texts, [0]) == pytest.approx([(1 + 0.5) / 3])
    assert m.compute_prompt_rank(image, texts, [2]) == [1]
    assert np.isnan(m.compute_prompt_rank(image, texts[:1], [0])).all()


def test_prompt_lift_by_hand():
    texts = np.eye(2, dtype=np.float32)
    photos = np.array([[0.1, 0.9], [0.3, 0.7]], np.float32)
    image = np.array([[0.5, 0.1]], np.float32)
    # With the first text photos score .2 on average, deviation .1414.
    assert m.compute_prompt_lift(image, photos, texts, [0]) == pytest.approx([0.3 / 0.02**0.5])
    assert m.compute_prompt_lift(image, photos, texts, [1])[0] < 0


@pytest.mark.parametrize(
    ("subject", "rank", "lift", "copied", "wanted"),
    [
        (1, 1, 3, 0, 1), (0, 1, 5, 0, 0), (1, 0.5, 3, 0, 0), (1, 0.2, 3, 0, 0), (1, 1, 9, 1, 0),
        (1, 1, -1, 0, 0), (0.25, 1, 3, 0, 0.5), (1, 1, 0.75, 0, 0.5), (1, 1, 3, 0.25, 0.75),
    ],
)  # fmt: skip
def test_joint_is_low_if_either_is_and_nothing_for_a_copy(subject, rank, lift, copied, wanted):
    found = m.compute_joint(*(np.array([float(v)]) for v in (subject, rank, lift, copied)))
    assert found == pytest.approx([wanted])


def test_hash_finds_copies_mirrored_shrunk_and_compressed_but_not_new_pictures(tmp_path):
    subject = make_true_subject(2)
    reader = HashExtractor()
    photos = [picture.image for picture in subject.photos]
    photos[0].save(tmp_path / "copy.jpg", quality=80)
    copies = [
        photos[0], ImageOps.mirror(photos[1]), photos[2].resize((200, 200)),
        load_image(tmp_path / "copy.jpg"),
    ]  # fmt: skip
    new = [case.image for case in subject.cases if case.set_name == "faithful"]
    rows = reader.encode_images([*copies, *new])
    found = m.compute_copied_pixels(rows, reader.encode_images(photos))
    assert found[:4].tolist() == [1, 1, 1, 1]
    assert found[4:].mean() < 0.2


@pytest.mark.parametrize("size", [(64, 64), (333, 500), (1024, 1024), (20, 31)])
def test_hash_is_that_of_the_whole_image_and_of_its_mirror_image(size):
    picture = make_true_subject(2).photos[0].image.resize(size, Image.Resampling.BICUBIC)
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
    subject = make_true_subject(0)
    dino, clip = load_encoder("mini-vit", "dino"), load_encoder("mini-clip", "clip")
    segmenter = load_segmenter("mini-segmenter")
    reader = PartsExtractor(dino, clip, segmenter, class_name=subject.class_name)
    photo, other = subject.photos[0], subject.photos[1]

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


def test_segmenter_that_is_not_there_names_the_files_to_bring(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"bring config\.json, model\.safetensors, .* of CIDAS"):
        Segmenter(SEGMENTERS["clipseg"], device="cpu")
    (tmp_path / "clipseg").mkdir()
    for name in SEGMENTERS["clipseg"].files:
        (tmp_path / "clipseg" / name).write_text("{}")
    with pytest.raises(UserError, match="does not hold the segmenter"):
        _ = Segmenter(SEGMENTERS["clipseg"], device="cpu").model
    lost = replace(SEGMENTERS["mini-segmenter"], name="lost", shipped="lost")
    with pytest.raises(UserError, match="no weights on this machine"):
        Segmenter(lost, device="cpu")


def test_a_segmenter_of_the_hub_is_fetched_at_its_pinned_revision(
    clipseg_folder, tmp_path, monkeypatch
):
    spec, asked = SEGMENTERS["clipseg"], []

    def download(hub, *, revision, allow_patterns):
        asked.append((hub, revision, allow_patterns))
        return shutil.copytree(clipseg_folder, tmp_path / "clipseg")

    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert open_segmenter("clipseg", device="cpu")[0] is None  # Scoring alone fetches nothing.
    for _ in range(2):
        encoder_identities(
            load_protocol("mini").model_copy(
                update={"encoders": load_protocol("dreambench").encoders, "metrics": ()}
            )
        )
    assert asked == [(spec.hub, spec.revision, list(spec.files))]
    assert len(str(spec.revision)) == 40
    found, why = open_segmenter("clipseg", device="cpu")
    assert (found is not None, why) == (True, "")
    assert found.spec == spec
    load_segmenter.cache_clear()


def test_every_measure_has_a_page_with_what_it_cannot_see():
    folder = REPOSITORY / "docs" / "metrics"
    names = {*METRICS, *m.MEASURES}
    assert {path.stem for path in folder.glob("*.md")} == {*names, "index"}
    for name in names:
        text = (folder / f"{name}.md").read_text()
        for part in ("Formula.", "Source.", "Range.", "Version.", "What it cannot see."):
            assert f"**{part}**" in text, f"{name} lacks {part}"


def test_signature_carries_encoders_and_segmenter():
    identities = {"dino": "D@1", "clip": "C@2", "mask": "S@3", "hash": "H@4"}
    assert m.MEASURES["joint"].signature(identities).startswith("Joint|v1|D@1|C@2|S@3|")
    assert json.dumps(m.MEASURES["copy"].signature(identities)).count("C@2") == 0
