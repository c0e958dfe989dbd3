"""Class nouns of photos, by an image-text encoder."""

import pytest
from PIL import Image

from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.encoders.classification import classify_photos
from dreambench.encoders.registry import find_encoder, load_spec


def test_classifier_finds_the_class_of_minis_subjects():
    encoder = load_spec(find_encoder("mini-clip", "clip"))
    nouns = ["dog", "cat", "bird", "plushie", "robot", "car", "mug", "vase", "teapot", "backpack"]
    subjects = load_subjects(find_dataset("mini"))
    hits = 0
    for subject in subjects:
        ranking = classify_photos([Image.open(p) for p in subject.photos], nouns, encoder)
        assert sum(p for _, p in ranking) == pytest.approx(1)
        assert [p for _, p in ranking] == sorted((p for _, p in ranking), reverse=True)
        hits += ranking[0][0] == subject.class_name
    assert hits >= 7
