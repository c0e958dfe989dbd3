"""Features: each file once, the same bits however the work was cut, and a cache to rely on."""

import gc
import json
import platform
import random
import subprocess
import sys
import threading
import time
import weakref
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image
from small_cache import database, n_rows, run

from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.encoders import extraction as extraction_module
from dreambench.encoders.extraction import Distances, Rows, extract, extract_texts
from dreambench.encoders.feature_cache import FeatureCache, key_of_pair
from dreambench.encoders.pace import Pace
from dreambench.encoders.parts import BlackDetector, PartsExtractor
from dreambench.encoders.preprocessing import Pixels
from dreambench.encoders.registry import find_encoder, load_encoder, make_encoder
from dreambench.encoders.segmentation import load_segmenter
from dreambench.errors import UserError
from dreambench.progress import no_progress
from dreambench.storage import images
from dreambench.storage.files import sha256_file
from dreambench.storage.images import load_image

ROLES = {"dino": "mini-vit", "clip": "mini-clip", "perceptual": "mini-vit-patches"}


@pytest.fixture(scope="module")
def photos():
    return [path for s in load_subjects(find_dataset("mini")) for path in s.photos]


@pytest.fixture(scope="module")
def vit():
    return load_encoder("mini-vit", "dino")


@pytest.fixture(scope="module")
def clip():
    return load_encoder("mini-clip", "clip")


@pytest.fixture(scope="module")
def patches():
    return load_encoder("mini-vit-patches", "perceptual")


# The heap is as decoding thousands of large images leaves it: free, and kept by glibc because a
# block after it is still in use. What is held is measured in the middle of extraction.
HELD = """
import json, sys
from pathlib import Path
import numpy as np
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.encoders import extraction
from dreambench.encoders.registry import load_encoder
from dreambench.progress import no_progress

def held_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

def leave_free_memory():
    blocks = [np.ones(8192) for _ in range(4000)]  # 250 MB, each below the size of an own map.
    return blocks[-1].copy(), blocks[-1]

def extract(root, progress):
    pace = extraction.Pace(n_threads=1, batch_size=4)
    extraction.extract_files(photos, [vit], cache_dir=root, progress=progress, pace=pace)

photos = [path for s in load_subjects(find_dataset("mini")) for path in s.photos]
vit = load_encoder("mini-vit", "dino")
extract(Path(sys.argv[1]) / "first", no_progress)
found = {}
for name, seconds in (("kept", 1e9), ("given back", 0.0)):
    extraction.TRIM_SECONDS = seconds
    kept = leave_free_memory()
    before, seen = held_mb(), []
    extract(
        Path(sys.argv[1]) / name,
        lambda what, done, total: seen.append(held_mb()) if 0 < done < total else None,
    )
    found[name] = {"middle": before - min(seen), "end": before - held_mb()}
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_is_given_back_while_rows_are_made(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HELD, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    freed = json.loads(done.stdout)
    assert freed["kept"]["middle"] < 50
    assert freed["kept"]["end"] > 150
    assert freed["given back"]["middle"] > 150


def test_giving_memory_back_changes_no_number(photos, vit, tmp_path, monkeypatch):
    (plain,) = run(photos, [vit], tmp_path / "plain")
    monkeypatch.setattr(extraction_module, "TRIM_SECONDS", 0.0)
    (trimmed,) = run(photos, [vit], tmp_path / "trimmed")
    assert np.array_equal(plain, trimmed)


def test_decoded_images_do_not_wait_for_the_garbage_collector(
    photos, vit, clip, tmp_path, monkeypatch
):
    seen = []

    def load(path):
        image = load_image(path)
        seen.append(weakref.ref(image))
        return image

    monkeypatch.setattr(extraction_module, "load_image", load)
    parts = PartsExtractor(vit, clip, load_segmenter("mini-segmenter"), class_name="dog")
    gc.disable()
    try:
        run(photos, [vit, parts], tmp_path)
        n_alive = sum(one() is not None for one in seen)
    finally:
        gc.enable()
    assert (len(seen), n_alive) == (len(photos), 0)


# What is made, and how often.


def test_cache_is_by_content_and_encoder(photos, vit, clip, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(photos[0].read_bytes())
    root = tmp_path / "cache"
    (rows,) = run(photos[:2], [vit], root)
    assert n_rows(root) == {(vit.identity, "image"): 2}
    (again,) = run([copy], [vit], root)
    assert np.array_equal(again[0], rows[0])
    assert n_rows(root) == {(vit.identity, "image"): 2}
    run([copy], [clip], root)
    assert n_rows(root) == {(vit.identity, "image"): 2, (clip.identity, "image"): 1}


def test_files_are_decoded_once_for_all_that_is_asked(
    photos, vit, clip, patches, tmp_path, decoded
):
    black, copy = tmp_path / "black.png", tmp_path / "copy.png"
    Image.new("RGB", (64, 64)).save(black)
    copy.write_bytes(photos[3].read_bytes())
    paths = [*photos[:9], black, copy]
    asks = [Rows(vit, paths), Rows(clip, paths[:4]), Rows(BlackDetector(), paths)]
    groups = [paths[:3], paths[3:6], [paths[3], copy], paths[9:10]]
    for _ in range(2):
        with FeatureCache(tmp_path / "cache") as cache:
            rows, gaps = extract(
                asks, [Distances(patches, groups)], cache=cache, progress=no_progress,
                pace=Pace(batch_size=4),
            )  # fmt: skip
        # The second round finds all of it; the copy has the content of another.
        assert sorted(decoded) == sorted(paths[:-1])
    for ask, found in zip(asks[:2], rows[:2], strict=True):
        wanted = ask.extractor.encode_images([load_image(path) for path in ask.paths])
        assert np.abs(np.stack([found[path] for path in ask.paths]) - wanted).max() < 1e-6
    assert [path for path in paths if rows[2][path][0]] == [black]
    assert gaps[0][photos[3], copy] == 0
    assert len(gaps[0]) == 3 + 3 + 1


def test_pixels_that_several_readers_need_are_made_once(photos, vit, clip, tmp_path, monkeypatch):
    made = []
    plain = Pixels.prepare
    monkeypatch.setattr(
        Pixels, "prepare", lambda self, image: made.append(str(self)) or plain(self, image)
    )
    parts = PartsExtractor(vit, clip, load_segmenter("mini-segmenter"), class_name="dog")
    found = run(photos[:3], [vit, clip, parts], tmp_path)[2]
    # The two encoders take the same pixels; the segmenter's are others.
    assert len(made) == 2 * 3
    assert len(set(made)) == 2
    monkeypatch.undo()
    wanted = parts.encode_images([load_image(path) for path in photos[:3]])
    assert np.abs(found - wanted).max() < 1e-6


def test_distances_are_those_of_the_rows(photos, patches, tmp_path):
    groups = [photos[i : i + 3] for i in range(0, 12, 3)]
    with FeatureCache(tmp_path) as cache:
        rows, gaps = extract(
            [Rows(patches, photos[:12])], [Distances(patches, groups)], cache=cache,
            progress=no_progress,
        )  # fmt: skip
    for group in groups:
        features = np.stack([rows[0][path] for path in group]).astype(np.float64)
        first, second = np.triu_indices(len(group), k=1)
        wanted = ((features[first] - features[second]) ** 2).sum(axis=1)
        assert [gaps[0][pair] for pair in combinations(group, 2)] == wanted.tolist()


def test_only_what_distances_lack_is_made_again(photos, patches, tmp_path, decoded):
    def measure(groups):
        decoded.clear()
        with FeatureCache(tmp_path) as cache:
            asks = [Distances(patches, groups)]
            pace = Pace(batch_size=1)
            return extract([], asks, cache=cache, progress=no_progress, pace=pace)[1][0]

    before = measure([photos[:3]])
    names = [sha256_file(path) for path in photos[:3]]
    db = database(tmp_path)
    db.execute("DELETE FROM entries WHERE key = ?", (key_of_pair(names[0], names[2]),))
    db.close()
    assert measure([photos[:3], photos[3:5], photos[5:6]]).items() >= before.items()
    assert sorted(decoded) == sorted([photos[0], photos[2], photos[3], photos[4]])


def test_texts_are_embedded_once(clip, tmp_path, monkeypatch):
    texts = [f"a {word} on the beach" for word in ("dog", "mug", "boat", "hat", "car", "cup")]
    asked = []
    plain = clip.encode_texts
    monkeypatch.setattr(clip, "encode_texts", lambda some: asked.append(list(some)) or plain(some))
    with FeatureCache(tmp_path) as cache:
        first = extract_texts([*texts[:3], texts[0]], clip, cache=cache)
        assert list(first) == sorted(texts[:3])
        extract_texts(texts[:3], clip, cache=cache)
        assert len(asked) == 1
        both = extract_texts(texts, clip, cache=cache)
        assert len(asked) == 2
    assert all(np.array_equal(both[text], first[text]) for text in texts[:3])
    wanted = plain(texts)
    assert all(np.abs(both[text] - wanted[i]).max() < 1e-6 for i, text in enumerate(texts))


def test_no_network_is_read_where_the_cache_has_all(photos, tmp_path):
    specs = [find_encoder(name, role) for role, name in list(ROLES.items())[:2]]
    before = run(photos[:5], [make_encoder(spec) for spec in specs], tmp_path)
    later = [make_encoder(spec) for spec in specs]
    after = run(photos[:5], later, tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any("model" in vars(encoder) for encoder in later)
    assert later[0].model is not None
    assert "model" in vars(later[0])


# The same bits.


@pytest.mark.parametrize("role", ROLES)
def test_no_bit_depends_on_threads_order_neighbours_or_interruption(role, photos, tmp_path):
    encoder = load_encoder(ROLES[role], role)
    (whole,) = run(photos, [encoder], tmp_path / "whole")
    rng = random.Random(0)
    for index, pace in enumerate([{"n_threads": 1}, {"n_threads": 7}, {"batch_size": 4}]):
        root = tmp_path / str(index)
        order = rng.sample(range(len(photos)), len(photos))
        # First a few of them alone, as when a run was interrupted.
        run([photos[i] for i in order[:13]], [encoder], root, **pace)
        (rows,) = run([photos[i] for i in order], [encoder], root, **pace)
        assert np.array_equal(rows, whole[order])
    (single,) = run(photos, [encoder], tmp_path / "single", batch_size=1)
    assert np.abs(single - whole).max() < 1e-6


def test_every_pass_has_the_same_number_of_images(photos, vit, tmp_path, monkeypatch):
    sizes = []
    plain = vit.encode_pixels
    monkeypatch.setattr(
        vit, "encode_pixels", lambda batch: sizes.append(len(batch)) or plain(batch)
    )
    run(photos[:7], [vit], tmp_path, batch_size=3)
    assert sizes == [3, 3, 3]
    # One more is in the batch that was not full: that batch is made whole, the others are not.
    run(photos[:8], [vit], tmp_path, batch_size=3)
    assert sizes == [3] * 4


def test_file_that_changes_meanwhile_is_refused(photos, vit, tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    path.write_bytes(photos[0].read_bytes())

    def change(path):
        image = load_image(path)
        path.write_bytes(photos[1].read_bytes())
        return image

    monkeypatch.setattr(extraction_module, "load_image", change)
    with pytest.raises(UserError, match=r"image\.png changed while it was read"):
        run([path], [vit], tmp_path / "cache")
    monkeypatch.undo()
    (rows,) = run([path], [vit], tmp_path / "cache")
    assert np.array_equal(rows, run([photos[1]], [vit], tmp_path / "other")[0])


def test_what_was_made_before_an_error_is_kept(photos, vit, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(photos[0].read_bytes()[:200])
    with pytest.raises(UserError, match=r"broken\.png is damaged"):
        run([*photos[:8], broken], [vit], tmp_path / "cache", batch_size=4)
    assert n_rows(tmp_path / "cache") == {(vit.identity, "image"): 8}


def test_a_texts_row_does_not_depend_on_the_others_or_on_padding(clip):
    short, long = "a dog", "a red dog wearing a hat and a scarf on the beach in the sunset"
    alone = clip.encode_texts([short])[0]
    together = clip.encode_texts([long, short, *(f"a {word}" for word in "abcdefghij")])
    assert np.array_equal(together[1], alone)
    tokens = clip.tokenizer([short, long])
    assert len(set(clip._text_lengths(tokens))) == 2
    with torch.inference_mode():
        padded = torch.nn.functional.normalize(clip.model.encode_text(tokens), dim=-1).numpy()
    assert np.abs(padded - np.stack([alone, together[0]])).max() < 1e-6


@pytest.mark.parametrize(("side", "at_once"), [(300, 1), (30, 2)])
def test_large_images_are_decoded_one_at_a_time_and_small_ones_together(
    tmp_path, monkeypatch, vit, side, at_once
):
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 100_000)
    paths = [tmp_path / f"{k}.png" for k in range(6)]
    for k, path in enumerate(paths):
        Image.new("RGB", (side, side), (k, 0, 0)).save(path)
    lock, running, most = threading.Lock(), [], []

    def slow(path):
        with lock:
            running.append(path)
            most.append(len(running))
        time.sleep(0.05)
        image = load_image(path)
        with lock:
            running.remove(path)
        return image

    monkeypatch.setattr(extraction_module, "load_image", slow)
    run(paths, [vit], tmp_path / "cache", n_threads=6)
    assert max(most) == 1 if at_once == 1 else max(most) >= at_once
