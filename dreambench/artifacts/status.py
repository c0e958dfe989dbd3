"""What is done and left in a folder, read without changing anything in it. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreambench.artifacts.failures import describe_failures, group_failures, read_failures
from dreambench.artifacts.image_set import ImageSet, is_claimed, load_chosen, plan_images
from dreambench.artifacts.manifest import RunManifest, read_manifest
from dreambench.storage.sums import read_sums


def read_status(folder: Path, *, data_dir: Path | None = None) -> dict[str, Any]:
    """Return what is done and left in the folder of a run or of scores, by name."""
    manifest = read_manifest(folder)
    protocol = manifest.protocol
    head = {
        "method": manifest.row_name,
        "protocol": f"{protocol.name} v{protocol.version}",
        "partial": manifest.partial,
    }
    written = read_sums(folder)
    tail = {
        "scored": "scores.parquet" in written,
        "summarised": "summary.json" in written,
        "sessions": len(manifest.sessions),
    }
    if not isinstance(manifest, RunManifest):
        images = manifest.images
        return {**head, "images": f"{images.n_scored} of {images.n_expected}, external", **tail}
    subjects = load_chosen(protocol, data_dir=data_dir, names=manifest.subjects, near=folder)
    plan = plan_images(manifest, subjects)
    found = ImageSet(
        folder=folder, protocol=protocol, subjects=subjects, plan=plan, manifest=manifest
    )
    n_trained = sum((folder / "train" / unit.subject).is_dir() for unit in plan.train)
    n_images = len(plan.images) - len(found.missing_images())
    working = [subject.name for subject in subjects if is_claimed(folder, subject.name)]
    failed = describe_failures(group_failures(read_failures(folder)))
    return {
        **head,
        "trained": f"{n_trained} of {len(plan.train)}",
        "images": f"{n_images} of {len(plan.images)}",
        **({"working on": working} if working else {}),
        **({"failed": failed} if failed else {}),
        **tail,
    }
