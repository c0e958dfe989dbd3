"""Runs of rendered images, for tests of user studies: two subjects of two classes, two prompts."""

from dataclasses import replace

from conftest import TINY_PROTOCOL
from report_pages import make_run, make_subjects

from dreambench.artifacts.manifest import Digests, RecipeRecord, RunManifest
from dreambench.storage.files import sha256_file
from dreambench.storage.sums import write_sums


def make_runs(root, methods=("good", "poor"), *, classes=None, missing=()):
    """Image sets of methods without scores, of the same subjects and prompts."""
    path = root / "tiny.toml"
    path.write_text(TINY_PROTOCOL)
    subjects = [
        replace(subject, sha256=tuple(map(sha256_file, subject.photos)))
        for subject in make_subjects(root / "photos", classes or {"dog": "dog", "mug": "cup"})
    ]
    found = []
    for name in methods:
        _, images = make_run(root / "runs" / name, path, subjects, missing=missing)
        manifest = RunManifest.model_construct(
            kind="run", recipe=RecipeRecord.model_construct(name=name), replicate=1, encoders={},
            digests=Digests(protocol="p0", data="d0", base_model="b0", recipe=f"of {name}"),
        )  # fmt: skip
        for subject in subjects:
            write_sums(images.images_dir(subject.name))
        found.append(replace(images, manifest=manifest))
    return found
