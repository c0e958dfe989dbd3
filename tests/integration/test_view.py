"""`dreambench view`: opens a report until Ctrl-C; and the page that a run writes."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from conftest import refused_at_once
from PIL import Image

from dreambench.artifacts.image_set import is_class_image, read_image_set
from dreambench.artifacts.results import read_scores
from dreambench.storage.sums import find_changed, read_sums


def test_page_of_a_run_is_served_until_it_is_interrupted(finished):
    words = [sys.executable, "-m", "dreambench", "view", finished[0] / "quick", "--no-browser"]
    with subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        try:
            url = process.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/quick/report/index\.html", url)
            with urllib.request.urlopen(url, timeout=20) as answer:
                page = answer.read().decode()
            assert "quick on tiny v1" in page
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0 and said.split() == ["Ctrl-C", "ends", "it."]


def test_folder_without_a_report_is_refused_with_the_next_step(tmp_path, copied):
    (copied / "report" / "index.html").unlink()
    assert f"first: dreambench report {copied}" in refused_at_once("view", copied)
    assert "holds no run" in refused_at_once("view", tmp_path)


@pytest.fixture
def data(finished):
    """What the page of the finished run shows."""
    page = (finished[0] / "quick" / "report" / "index.html").read_text()
    return json.loads(re.search(r'id="images-data">(.*?)</script>', page)[1])


def test_page_has_every_image_of_every_method_and_is_listed_with_its_thumbnails(finished, data):
    report = finished[0] / "quick" / "report"
    listed = read_sums(report)
    assert "index.html" in listed and find_changed(report) == []
    assert [method["name"] for method in data["methods"]] == [
        "quick",
        "class-only",
        "copy-reference",
    ]
    for method in data["methods"]:
        assert len(method["thumbnails"]) == 12
        assert all(f"thumbnails/{name}.webp" in listed for name in method["thumbnails"])
        assert method["scores"]["dino"].count(None) == 4  # Class images have none.
    assert "thumbnails/" not in finished[2]


def test_nearest_photo_of_a_copied_photo_is_the_one_that_was_copied(finished):
    images = read_image_set(finished[0] / "copy-reference")
    scores = read_scores(images)
    units = [unit for unit in images.plan.images if not is_class_image(unit)]
    assert set(scores.nearest) == {unit.relative_path for unit in units}
    photos = {subject.name: subject.photos for subject in images.subjects}
    for unit in units:
        with Image.open(images.folder / unit.relative_path) as image:
            pixels, size = np.asarray(image.convert("RGB"), float), image.size
        gaps = {}
        for photo in photos[unit.subject]:
            with Image.open(photo) as opened:
                shown = np.asarray(opened.convert("RGB").resize(size), float)
            gaps[photo.name] = np.abs(shown - pixels).mean()
        assert scores.nearest[unit.relative_path] == min(gaps, key=gaps.get)
