"""Weights besides the base model's are part of what a run is."""

from dataclasses import replace

import pytest
from conftest import LIGHT_PROTOCOL
from own_method import OWN
from safetensors.torch import load_file, save_file
from small_pipelines import write_adapter_snapshot

from dreambench.config.protocol import load_protocol
from dreambench.config.recipe import load_recipe
from dreambench.errors import UserError
from dreambench.methods.plugins import find_recipe
from dreambench.report.notes import describe_digests
from dreambench.runs.run_folder import Request, check_weights, open_run, plan_run, read_run

COUNTED = """
    def count_work(settings, base_model):
        from dreambench.methods import Snapshot, Work
        return Work(weights=[{weights}])
"""


@pytest.fixture
def plan(tiny, tmp_path):
    """Plans a run of a recipe on a base model."""
    tiny[0].write_text(LIGHT_PROTOCOL)

    def make(recipe, base_model="mini"):
        request = Request(
            protocol=load_protocol(str(tiny[0])), recipe=recipe, base_model=base_model,
            device="cpu", precision="fp32", batch_size=1, encoders={},
        )  # fmt: skip
        return plan_run(tmp_path / recipe.name, request)

    return make


def test_methods_say_what_they_load(plan, tmp_path):
    def names(name):
        return set(plan(load_recipe(name)).manifest.digests.weights or {})

    assert names("ip-adapter") == {"ip-adapter-mini", "mini-clip"}
    assert names("clip-guidance") == {"mini-vqgan", "mini-clip"}
    assert names("reconstruction") == names("dreambooth") == set()
    path = tmp_path / "own.py"
    path.write_text(OWN + COUNTED.format(weights="Snapshot(name='own', files=('a',), hub='b/c')"))
    assert plan(find_recipe(f"{path}:Colours")).manifest.digests.weights == {"own": "b/c@None"}
    path.write_text(OWN + COUNTED.format(weights="Snapshot(name='own', files=('a', 'b'))"))
    with pytest.raises(UserError, match="'own' has no weights on this machine") as caught:
        plan(find_recipe(f"{path}:Colours"))
    assert caught.value.hint.startswith("put a, b into ")
    for wrong in ("1", "Snapshot(name='own', files='a')"):
        path.write_text(OWN + COUNTED.format(weights=wrong))
        with pytest.raises(UserError, match=r"count_work\(\) of .*Colours"):
            plan(find_recipe(f"{path}:Colours"))


def test_a_run_does_not_go_on_with_other_weights(plan, other_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path / "weights"))
    base, recipe = f"sd15={other_folder}", load_recipe("ip-adapter")
    assert plan(recipe, base).manifest.digests.weights == {
        "ip-adapter-sd15": "h94/IP-Adapter@018e402774aeeddd60609b4ecdb7e298259dc729"
    }
    write_adapter_snapshot(tmp_path / "weights" / "ip-adapter-sd15")
    run = open_run(plan(recipe, base))
    weights = run.manifest.digests.weights
    assert weights["ip-adapter-sd15"].startswith("folder@")
    assert f"`{weights['ip-adapter-sd15']}`" in describe_digests(run.manifest.digests)
    check_weights(read_run(run.folder))
    open_run(plan(recipe, base))

    file = tmp_path / "weights" / "ip-adapter-sd15" / "models" / "ip-adapter_sd15.safetensors"
    save_file({name: 2 * value for name, value in load_file(file).items()}, file)
    with pytest.raises(UserError, match=r"digests\.weights\.ip-adapter-sd15") as caught:
        open_run(plan(recipe, base))
    assert caught.value.code == "other-run"
    # What scores it needs no weights; what makes images does.
    read = read_run(run.folder)
    assert read.manifest.digests == run.manifest.digests
    with pytest.raises(UserError, match="ip-adapter-sd15") as caught:
        check_weights(replace(read, recipe=recipe))
    assert caught.value.code == "changed-data"
