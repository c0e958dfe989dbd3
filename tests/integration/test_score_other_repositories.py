"""Folders of UNO and PatchDPO, the whole command: the numbers of an index of the same images."""

import numpy as np
import pandas as pd
import pytest
from conftest import TINY_PROTOCOL, invoke, refused
from external_images import list_images, write_index, write_patchdpo, write_uno
from PIL import Image

import dreambench
from dreambench.config.protocol import load_protocol

PAPERS = ("jungle", "floating-ocean-milk", "black-hat-monocle", "red", "cube-shaped")


@pytest.fixture(scope="module")
def protocol(tmp_path_factory):
    """The tiny protocol with prompts of the paper's in place of its own, one image of each."""
    prompts = [prompt for prompt in load_protocol("dreambench").prompts if prompt.id in PAPERS]
    assert len(prompts) == len(PAPERS)
    text = TINY_PROTOCOL[: TINY_PROTOCOL.index("[[prompts]]")]
    text = text.replace("n_images_per_prompt = 2", "n_images_per_prompt = 1").replace('"div", ', "")
    for prompt in prompts:
        text += f'[[prompts]]\nid = "{prompt.id}"\nfamily = "{prompt.family}"\n'
        text += f'text = "{prompt.text}"\nkinds = {list(prompt.kinds)}\n'
    path = tmp_path_factory.mktemp("papers") / "papers.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def images(protocol, tmp_path_factory):
    """Subject, text, number and file of each image, and a CSV that lists them."""
    folder = tmp_path_factory.mktemp("images")
    loaded = load_protocol(str(protocol))
    keys = [
        (subject, prompt.id, 0)
        for subject, kind in (("dog", "live"), ("mug", "object"))
        for prompt in loaded.prompts_for(kind)
    ]
    rng = np.random.default_rng(0)
    for subject, prompt, _ in keys:
        path = folder / subject / prompt / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    rows = [[f"{s}/{p}/{k}.png", s, p, k] for s, p, k in keys]
    write_index(folder / "index.csv", rows)
    texts = {prompt.id: prompt.text for prompt in loaded.prompts}
    return folder, list_images(folder, keys, texts)


@pytest.fixture(scope="module")
def indexed(protocol, images, tmp_path_factory, shared_cache):
    """What the index gives."""
    return dreambench.score(
        images[0] / "index.csv", protocol=str(protocol), name="index", cache=shared_cache,
        out=tmp_path_factory.mktemp("out"), device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize(("write", "layout"), [(write_uno, "uno"), (write_patchdpo, "patchdpo")])
def test_another_repositorys_folder_gives_the_numbers_of_an_index(
    protocol, images, indexed, tmp_path, write, layout
):
    theirs = write(tmp_path / "theirs", images[1])
    # A cache of its own: nothing that the index gave is taken over.
    done = invoke(
        "score", theirs, "--protocol", protocol, "--name", layout, "--out", tmp_path / "scores",
        "--cache", tmp_path / "cache", "--device", "cpu",
    )  # fmt: skip
    assert f"({layout})" in done.stdout
    found = dreambench.load_run(tmp_path / "scores" / "papers" / layout)
    assert found.scores.equals(indexed.scores)
    assert {"jungle", "black-hat-monocle", "floating-ocean-milk"} <= set(found.scores["prompt_id"])
    assert found.summary.partial is False
    assert found.manifest.digests == indexed.manifest.digests
    assert found.manifest.images.layout == layout


def test_what_is_missing_of_a_list_is_shown_and_the_rest_scored_when_asked(
    protocol, images, indexed, tmp_path, shared_cache
):
    left = [image for image in images[1] if "milk" not in image[1]]
    theirs = write_uno(tmp_path / "theirs", left)
    words = (
        "score", theirs, "--protocol", protocol, "--name", "x", "--out", tmp_path / "scores",
        "--cache", shared_cache, "--device", "cpu", "--layout", "uno",
    )  # fmt: skip
    assert "1 missing:\n- mug/floating-ocean-milk: none" in invoke(*words, status=2).stderr
    assert not (tmp_path / "scores").exists()
    assert "x (partial)" in invoke(*words, "--partial").stdout
    found = pd.read_parquet(tmp_path / "scores" / "papers" / "x" / "scores.parquet")
    keys = ["metric", "subject", "prompt_id", "k"]
    wanted = indexed.scores.set_index(keys)["value"]
    clip_t = found[found["metric"] == "clip-t"].set_index(keys)["value"]
    assert len(clip_t) == len(left) and clip_t.equals(wanted[clip_t.index])


def test_a_layout_is_for_external_images_and_has_a_known_name(protocol, images, tmp_path):
    assert "--layout" in refused("score", tmp_path, "--layout", "uno")
    line = refused(
        "score", images[0], "--protocol", protocol, "--name", "x", "--layout", "patch-dpo",
        "--out", tmp_path,
    )  # fmt: skip
    assert "'patch-dpo'" in line and "'patchdpo'" in line
