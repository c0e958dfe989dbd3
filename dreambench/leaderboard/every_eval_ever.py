"""A record as Every Eval Ever has it (evaleval/every_eval_ever, eval.schema.json 0.3.0).

Its samples are texts that are right or wrong, which images are not: the numbers of every image stay
in the record's `cells.parquet`, whose SHA-256 goes along.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from dreambench.artifacts.cells import FILE_NAME as CELLS_NAME
from dreambench.artifacts.record import BoundsPart, Evaluator, Record, RecordedMetric
from dreambench.storage.files import sha256_bytes

SCHEMA_VERSION = "0.3.0"
LIBRARY, WEB = "dreambench", "https://github.com/dreambench/dreambench"
_RELATIONSHIPS: Mapping[Evaluator, str] = {
    "authors": "first_party", "third-party": "third_party", "maintainers": "third_party",
}  # fmt: skip
_LEVEL = 0.95


def make_every_eval_ever(
    record: Record, *, model: str, dataset: str | None
) -> tuple[PurePosixPath, dict[str, Any]]:
    """Return the one file of a record: its path in the datastore, and its content.

    `model` is a Hub name, "owner/name", and so is `dataset`, that of the photos, where the Hub has
    them. The same record gives the same file: its name
    comes from the record's digest, its time from the last session.
    """
    seconds = f"{_find_time(record).timestamp():.0f}"
    session = record.sessions[-1]
    content = {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{record.protocol.name}/{model}/{seconds}",
        "evaluation_timestamp": _find_time(record).isoformat(),
        "retrieved_timestamp": seconds,
        "source_metadata": {
            "source_name": "dreambench records",
            "source_type": "evaluation_run",
            "source_organization_name": LIBRARY,
            "source_organization_url": WEB,
            "evaluator_relationship": _RELATIONSHIPS[record.evaluator],
            "additional_details": _texts(
                {
                    "record": record.path.as_posix(), "status": record.status,
                    "partial": record.partial, "n_images": record.n_images,
                    "n_images_expected": record.n_images_expected,
                    "n_replicates": 1 + len(record.replicates),
                    "cells_sha256": record.files.get(CELLS_NAME), "paper": record.paper_url,
                    "code": record.code_url, "images": record.images_url,
                }
            ),
        },
        "eval_library": {
            "name": LIBRARY,
            "version": session.code.version,
            "additional_details": _texts(
                {
                    "commit": session.code.commit, "python": session.python,
                    **{f"package.{name}": known for name, known in session.packages.items()},
                }
            ),
        },
        "model_info": {
            "name": record.method.title or record.method.name,
            "id": model,
            "developer": model.partition("/")[0],
            "additional_details": _describe_model(record),
        },
        "evaluation_results": [
            _describe_result(record, name, entry, dataset)
            for name, entry in record.metrics.items()
            if entry.whole.mean is not None
        ],
    }  # fmt: skip
    folder = PurePosixPath("data", record.protocol.name, *model.split("/"))
    number = uuid.UUID(hex=sha256_bytes(record.digest.encode())[:32], version=4)
    return folder / f"{number}.json", content


def _find_time(record: Record) -> datetime:
    found = datetime.fromisoformat(record.sessions[-1].started)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _describe_model(record: Record) -> dict[str, str]:
    base = record.method.base_model
    return {
        # Who is to say of images that another program made where it ran.
        "deployment_type": "self_deployed" if record.origin == "run" else "unknown",
        "model_availability": "unknown",
        **_texts(
            {
                "method": record.method.name, "source": record.method.source,
                "track": record.method.track, "licence": record.method.licence,
                "base_model": base and base.name, "base_model_identity": base and base.identity,
                "recipe_digest": record.digests.recipe,
            }
        ),
    }  # fmt: skip


def _describe_result(
    record: Record, name: str, entry: RecordedMetric, dataset: str | None
) -> dict[str, Any]:
    info, whole = entry.info, entry.whole
    low, high = info.bounds
    bounds = record.reference_bounds.get(name)
    recipe = record.recipe
    settings = {} if recipe is None else {f"recipe.{k}": v for k, v in recipe.settings.items()}
    uncertainty: dict[str, Any] = {"num_samples": whole.n_subjects}
    if whole.low is not None and whole.high is not None:
        uncertainty["confidence_interval"] = {
            "lower": whole.low, "upper": whole.high, "confidence_level": _LEVEL,
            "method": record.interval,
        }  # fmt: skip
    return {
        "evaluation_result_id": name,
        "evaluation_name": f"{record.protocol.name}/{name}",
        "source_data": {
            "dataset_name": record.protocol.dataset,
            **({"hf_repo": dataset} if dataset else {}),
            "source_type": "hf_dataset" if dataset else "other",
            "additional_details": _texts(
                {
                    "protocol_digest": record.digests.protocol,
                    "photos_digest": record.digests.data, "n_subjects": len(record.subjects),
                    "n_prompts": len(record.prompts),
                }
            ),
        },
        "metric_config": {
            "evaluation_description": info.formula,
            "metric_id": f"dreambench.{name}",
            "metric_name": info.title,
            "lower_is_better": not info.higher_is_better,
            "score_type": "continuous",
            "min_score": "-Infinity" if info.low is None else info.low,
            "max_score": "Infinity" if info.high is None else info.high,
            "additional_details": _texts({"signature": info.signature, "version": info.version}),
        },
        "score_details": {
            # Rounding may put a mean a last bit outside of its range.
            "score": min(max(float(whole.mean or 0.0), low), high),
            "details": _texts(
                {
                    "n_scored": entry.n_scored, "n_expected": entry.n_expected,
                    **_describe_bounds(bounds),
                }
            ),
            "uncertainty": uncertainty,
        },
        "generation_config": {
            "additional_details": _texts(
                {"sampler_digest": record.digests.sampler, **settings}
            )
        },
    }  # fmt: skip


def _describe_bounds(bounds: BoundsPart | None) -> dict[str, float | None]:
    if bounds is None:
        return {}
    return {"copy_bound": bounds.copy_bound, "faithful_bound": bounds.faithful_bound}


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    """Return values as the texts that the format's further details are; nothing is left out."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in values.items()
        if value is not None and value != ""
    }
