"""The benchmark for a GPU: at its smallest size on the CPU, and what its page says of which."""

import copy
import sys

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import gpu

from dreambench.storage.files import read_json


def run_here(part, scale, device, base, *, limit):
    return gpu.run_part(part, scale, device, base)


@pytest.mark.long
def test_it_measures_on_a_cpu_and_says_whether_a_gpu_has_run_it(tmp_path):
    gpu.write_results("smallest", "cpu", tmp_path, minutes=8, run=run_here)
    result, page = read_json(tmp_path / "gpu.json"), (tmp_path / "gpu.md").read_text()
    part = result["parts"]["mini dreambooth fp32"]
    # A backward pass takes about twice the forward pass; so do all of the step's noisy images.
    assert part["images_per_step"] == 8
    assert 2.8 < part["step_flops"] / (8 * part["pass_flops"]) < 3.1
    assert 4 * part["pass_flops"] < part["image_flops"] < 8 * part["pass_flops"]
    assert 0.01 < part["tune_share"] < 1.2 and 0.01 < part["draw_share"] < 1.2
    assert part["same_losses"] and part["same_images"] and part["peak_bytes"] > 3e8
    assert result["whole"]["fp32"]["ratio"] > 1 and result["whole"]["bf16"] == {}
    assert result["session"]["packages"]["torch"] and result["session"]["code"]["version"]
    assert "No GPU has run this" in page and page.count("not measured |") == 3

    result = copy.deepcopy(result)
    result["parts"]["mini dreambooth bf16"] = part
    result["parts"]["mini agreement fp32"] = {
        "differences": {"4 steps": {"largest_difference": 3, "mean_difference": 0.25}}
    }
    whole = {"bf16": {"ratio": 4.25, "ours_hours": 1.0, "peers_hours": 4.25}}
    page = gpu.make_page({**result, "scale": "gpu", "whole": whole})
    assert "No GPU" not in page
    assert f"| training at 0.4 of the bound | {part['tune_share']:.2f} |" in page
    assert "| 3 times peers' shape | 4.25 |" in page and "| 4 steps | 3 | 0.250 |" in page


def test_what_fails_or_has_no_time_is_named(tmp_path, monkeypatch):
    gpu.write_results("cpu", "cpu", tmp_path, minutes=0.0, run=run_here)
    page = (tmp_path / "gpu.md").read_text()
    assert page.count("no time was left") == len(gpu.list_parts("cpu"))
    script = tmp_path / "part.py"
    monkeypatch.setattr(gpu, "__file__", str(script))
    part = gpu.list_parts("gpu")[0]
    script.write_text("import sys; print('words'); sys.exit('CUDA out of memory')")
    assert gpu.run_apart(part, "gpu", "cuda", "sd15=.", limit=60) == {
        "missing": "it failed: CUDA out of memory"
    }
    script.write_text("import time; time.sleep(60)")
    assert "1 seconds" in gpu.run_apart(part, "gpu", "cuda", "sd15=.", limit=1)["missing"]
