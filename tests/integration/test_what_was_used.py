"""What numbers were really made with: stored with them, and compared before anything is mixed."""

import shutil
from dataclasses import replace

import pytest
import torch
from conftest import LIGHT_PROTOCOL, TINY_PROTOCOL, TINY_RECIPE, invoke, refused, tree

from dreambench.artifacts.image_set import read_image_set
from dreambench.artifacts.manifest import read_manifest
from dreambench.artifacts.results import (
    read_reference_bounds,
    read_scores,
    read_summary,
    write_scores,
)
from dreambench.config.protocol import load_protocol
from dreambench.config.recipe import load_recipe
from dreambench.datasets.index import find_dataset
from dreambench.runs.run_folder import Request, plan_run
from dreambench.storage.images import load_image


@pytest.fixture
def threads():
    """Sets torch's threads, and sets them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def without(files, name):
    return {path: content for path, content in files.items() if path != name}


def test_scores_name_what_made_them(copied):
    images = read_image_set(copied)
    found = read_scores(images).identities
    assert set(found) == {"dino", "clip", "perceptual", "mask", "hash", "thumbnail"}
    assert {role: found[role] for role in images.encoders} == images.encoders
    assert read_summary(images).encoders == found
    for info in read_scores(images).metrics:
        assert any(identity in info.signature for identity in found.values())


@pytest.mark.parametrize("role", ["mask", "hash", "dino"])
def test_scores_are_not_made_again_with_something_else(copied, shared_cache, role):
    images = read_image_set(copied)
    table = read_scores(images)
    table_of_another = replace(table, identities={**table.identities, role: "another one"})
    write_scores(images, table_of_another, read_reference_bounds(images))
    before = without(tree(copied), "run.json")  # The session that was refused is in it.
    line = refused("score", copied, "--cache", shared_cache)
    assert str(images.scores_path) in line
    assert "another one" in line and table.identities[role] in line and f"'{role}'" in line
    assert without(tree(copied), "run.json") == before


def test_an_input_that_is_new_joins_the_others(copied, shared_cache):
    images = read_image_set(copied)
    table = read_scores(images)
    fewer = {role: one for role, one in table.identities.items() if role != "mask"}
    write_scores(images, replace(table, identities=fewer), read_reference_bounds(images))
    invoke("score", copied, "--cache", shared_cache)
    assert read_scores(images).identities == table.identities


def test_images_do_not_depend_on_the_machines_threads(tiny, tmp_path, threads):
    text = LIGHT_PROTOCOL.replace("n_steps = 3", "n_steps = 2")
    tiny[0].write_text(text.replace('base_model = "mini"', 'base_model = "mini"\nn_threads = 1'))
    tiny[1].write_text(TINY_RECIPE.replace("n_steps = 6", "n_steps = 2"))
    found = []
    for n in (1, 3):
        threads(n)
        words = ("--out", tmp_path / str(n), "--cache", tmp_path / f"cache-{n}", "--workers", 1)
        invoke("run", "--method", tiny[1], "--protocol", tiny[0], "--alongside", "", *words)
        assert torch.get_num_threads() == n
        folder = tmp_path / str(n) / "tiny" / "quick"
        session = read_manifest(folder).session
        assert session.compute.threads == 1
        assert session.compute.cpu == torch.backends.cpu.get_cpu_capability()
        assert session.compute.processor == torch.cpu.get_capabilities()["cpu_name"]
        made = {**tree(folder / "images"), **tree(folder / "train" / "dog")}
        # The seconds of training are in one, and its hash in the other.
        found.append(without(without(made, "done.json"), "SHA256SUMS"))
    assert found[0] == found[1]


def test_methods_are_shown_the_single_reference_and_scored_against_all(tmp_path, shared_cache):
    folder = shutil.copytree(find_dataset("mini").photos_dir, tmp_path / "data")
    (folder / "single-references.csv").write_text("subject,file\ndog,dog/02.png\n")
    (tmp_path / "all.toml").write_text(TINY_PROTOCOL.replace('"mini"\nsub', f'"{folder}"\nsub'))
    text = (tmp_path / "all.toml").read_text()
    (tmp_path / "one.toml").write_text('references = "single"\n' + text)
    shown = {}
    for name in ("all", "one"):
        invoke(
            "run", "--method", "copy-reference", "--protocol", tmp_path / f"{name}.toml",
            "--alongside", "", "--out", tmp_path / "runs", "--cache", shared_cache,
        )  # fmt: skip
        images = read_image_set(tmp_path / "runs" / name / "copy-reference")
        shown[name] = {
            subject.name: {
                load_image(path).tobytes() for _, path in images.made_images(subject.name)
            }
            for subject in images.subjects
        }
        scores = read_scores(images).frame
        assert set(scores.loc[scores["metric"] == "dino", "n_pairs"]) == {
            len(subject.photos) for subject in images.subjects
        }
    assert shown["one"] == {
        "dog": {load_image(folder / "dog" / "02.png").tobytes()},
        "mug": {load_image(folder / "mug" / "00.png").tobytes()},
    }
    assert len(shown["all"]["dog"]) > 1


@pytest.mark.parametrize(("base", "size_px"), [("sd15", 512), ("sd21", 768), ("sdxl", 1024)])
def test_the_size_is_the_base_models_unless_the_protocol_says_another(tmp_path, base, size_px):
    protocol = load_protocol("dreambench").model_copy(
        update={"dataset": "mini", "subjects": ("dog",)}
    )

    def plan(protocol):
        return plan_run(
            tmp_path / "run",
            Request(
                protocol=protocol, recipe=load_recipe("dreambooth-lora"), base_model=base,
                device="cpu", precision="fp32", batch_size=1, encoders={},
            ),
        )  # fmt: skip

    own = plan(protocol).manifest
    assert own.sampler.size_px == size_px
    smaller = protocol.sampler.model_copy(update={"size_px": 256})
    fixed = plan(protocol.model_copy(update={"sampler": smaller})).manifest
    assert fixed.sampler.size_px == 256
    assert own.digests.sampler != fixed.digests.sampler
