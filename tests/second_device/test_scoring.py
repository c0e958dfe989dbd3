"""Encoders, segmenters and metrics of mini give on the second device what they do on the CPU."""

import numpy as np
import pytest
from conftest import TINY_PROTOCOL
from external_images import draw_images
from pairs import TINY_PAIRS

from dreambench.artifacts.plan import make_plan
from dreambench.config.protocol import load_all, load_protocol
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.encoders.extraction import Distances, extract
from dreambench.encoders.feature_cache import FeatureCache
from dreambench.encoders.outside import load_outside
from dreambench.encoders.registry import ENCODERS, SEGMENTERS, load_encoder, load_spec
from dreambench.encoders.segmentation import load_segmenter
from dreambench.errors import UserError
from dreambench.metrics.conventions import CONVENTIONS
from dreambench.metrics.registry import load_own_metrics
from dreambench.progress import no_progress
from dreambench.scoring.external import ExternalRequest, load_external, open_results
from dreambench.scoring.scorer import Scorer
from dreambench.storage.images import load_image
from second_device.device import NAME

OWN = [spec for spec in ENCODERS.values() if spec.shipped]
OWN_SEGMENTERS = [spec for spec in SEGMENTERS.values() if spec.shipped]
RULES = ["convention", "metric"]
KEYS = ["subject", "prompt_id", "k", "metric"]
# Forgets that its mean has to go where its images are.
FORGETFUL = """
import torch
from dreambench import Encoder
from dreambench.encoders.preprocessing import Pixels

class Forgetful(Encoder):
    roles = ("dino",)
    pixels = Pixels(64, 64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def forward(self, batch):
        return (batch - torch.ones(3, 1, 1)).flatten(1)
"""


@pytest.fixture(scope="module")
def photos():
    (dog,) = load_subjects(find_dataset("mini"), names=["dog"])
    return [load_image(path) for path in dog.photos]


@pytest.mark.parametrize("spec", OWN, ids=lambda spec: f"{spec.name}-{spec.role}")
def test_features_are_those_of_the_cpu(spec, photos):
    on_cpu, there = (load_encoder(spec.name, spec.role, device=name) for name in ("cpu", NAME))
    assert next(there.model.parameters()).device.type == NAME
    assert np.abs(on_cpu.encode_images(photos) - there.encode_images(photos)).max() < 1e-6
    if spec.role == "clip":
        texts = ["a dog", "a red dog on the beach"]
        assert np.abs(on_cpu.encode_texts(texts) - there.encode_texts(texts)).max() < 1e-6


@pytest.mark.parametrize("spec", OWN_SEGMENTERS, ids=lambda spec: spec.name)
def test_masks_are_those_of_the_cpu(spec, photos):
    on_cpu, there = (load_segmenter(spec.name, device=name) for name in ("cpu", NAME))
    assert next(there.model.parameters()).device.type == NAME
    masks = on_cpu.find_subjects(photos, "dog")
    assert np.array_equal(masks, there.find_subjects(photos, "dog")) and np.any(masks)


def test_distances_are_measured_there(photos, tmp_path, monkeypatch):
    (dog,) = load_subjects(find_dataset("mini"), names=["dog"])
    (spec,) = (one for one in OWN if one.role == "perceptual")
    found = []
    for device in ("cpu", NAME):
        encoder = load_encoder(spec.name, spec.role, device=device)
        if device == NAME:
            monkeypatch.setattr(encoder, "encode_pixels", None)  # Its rows would come here.
        with FeatureCache(tmp_path / device) as cache:
            asked = [Distances(encoder, [dog.photos])]
            _, (gaps,) = extract([], asked, cache=cache, progress=no_progress)
        found.append(gaps)
    on_cpu, there = found
    assert len(on_cpu) == len(photos) * (len(photos) - 1) / 2
    assert there == pytest.approx(on_cpu, rel=1e-5)


def test_an_encoder_that_leaves_a_tensor_on_the_cpu_is_found(photos, tmp_path):
    (tmp_path / "own.py").write_text(FORGETFUL)
    spec = load_outside(f"{tmp_path / 'own.py'}:Forgetful", "dino")
    assert load_spec(spec).encode_images(photos).shape == (len(photos), 3 * 64 * 64)
    with pytest.raises(UserError, match="Expected all tensors to be on the same device"):
        load_spec(spec, device=NAME).encode_images(photos)


# A photo is held out for the metric of photos that no method was shown.
ONE = f'references = "all-but-last"\n{TINY_PROTOCOL}'


@pytest.mark.parametrize(("takes", "text"), [("one", ONE), ("two", TINY_PAIRS)])
def test_every_metric_and_convention_scores_as_on_the_cpu(tmp_path, takes, text):
    (tmp_path / "tiny.toml").write_text(text)
    protocol = load_protocol(str(tmp_path / "tiny.toml"))
    names = [name for name, one in load_own_metrics().items() if one.takes in (takes, "any")]
    plan = make_plan(protocol, load_all(protocol, protocol.find_dataset()), batch_size=1)
    keys = [(unit.subject, unit.prompt_id, unit.k) for unit in plan.images]
    folder = draw_images(tmp_path / "images", keys)
    request = ExternalRequest(folder=folder, name="mine", protocol=protocol, metrics=names)
    found = []
    for device in ("cpu", NAME):
        out, cache = tmp_path / f"scores-{device}", tmp_path / f"cache-{device}"
        images = load_external(request, out, device=device, cache_dir=cache, progress=no_progress)
        images.folder.mkdir(parents=True)
        scorer = Scorer(
            open_results(images), metrics=request.metrics, cache_dir=cache, progress=no_progress
        )
        scores = scorer.score().frame.set_index(KEYS)["value"].sort_index()
        by_rules = scorer.score_conventions(list(CONVENTIONS)).set_index(RULES)["mean"]
        found.append((scores, by_rules))
    (on_cpu, by_rules), (there, by_rules_there) = found
    assert {*on_cpu.index.unique("metric")} == {*names}
    for one, other in ((on_cpu, there), (by_rules, by_rules_there)):
        assert len(one) > 5 and one.index.equals(other.index)
        # Some conventions count in percent.
        assert np.allclose(one, other, rtol=1e-5, atol=1e-6)
