"""Records in formats of others: Every Eval Ever, the Hub's eval results, a model card's index."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from dreambench.artifacts.record import Record
from dreambench.errors import UserError
from dreambench.leaderboard.every_eval_ever import make_every_eval_ever
from dreambench.leaderboard.hub import NAME
from dreambench.storage.files import make_dir, render_json, write_bytes
from dreambench.text import make_printable

Format = Literal["every-eval-ever", "eval-results", "model-index"]
_RANKED = ("eval-results", "model-index")
"""The Hub ranks what it reads in these, and knows no partial row."""
PHOTOS = "google/dreambooth"
"""The Hub dataset of the paper's photos."""


def export_record(
    record: Record, form: Format, *, model: str | None = None, dataset: str | None = None
) -> dict[PurePosixPath, bytes]:
    """Return a record in another format: files by their path below a folder.

    `model` is the Hub's name of the model whose results these are; without one it is
    dreambench/METHOD. `dataset` is that of the Hub's dataset to which they belong; without one it
    is that of the paper's photos, and for other photos dreambench/PROTOCOL, or none where the
    format can do without.

    Raises:
        UserError: `not-comparable` for a record that may not be ranked where that format is;
            `invalid-value` for what is not a name on the Hub.
    """
    if record.status == "withdrawn":
        raise UserError(
            f"the record of {record.method.name} was withdrawn: {record.withdrawn}",
            hint="export another record of the method",
            code="not-comparable",
        )
    if record.partial and form in _RANKED:
        raise UserError(
            f"the record of {record.method.name} is partial, with {record.n_images} of "
            f"{record.n_images_expected} images, and the Hub would rank it",
            hint="complete the run and submit it again, or use --format every-eval-ever",
            code="not-comparable",
        )
    if model is None:
        model = f"dreambench/{_make_hub_name(record.method.name)}"
    if dataset is None and record.protocol.dataset == "dreambooth":
        dataset = PHOTOS
    for option, name in (("--model", model), ("--dataset", dataset)):
        if name is not None and not NAME.fullmatch(name):
            raise UserError(
                f"{option}: '{name}' is not a name on the Hub",
                hint="it is OWNER/NAME, of letters, digits, '.', '_' and '-'",
                code="invalid-value",
            )
    if form == "every-eval-ever":
        path, content = make_every_eval_ever(record, model=model, dataset=dataset)
        return {path: render_json(_make_all_printable(content))}
    # These two cannot do without one.
    dataset = dataset or f"dreambench/{_make_hub_name(record.protocol.name)}"
    if form == "eval-results":
        return _render_eval_results(record, dataset)
    return _render_model_index(record, model, dataset)


def write_export(files: dict[PurePosixPath, bytes], out_dir: Path) -> list[Path]:
    """Write files below a folder, and return their paths.

    Raises:
        UserError: `name-taken` where another file is in the place of one; nothing is then written.
    """
    paths = {out_dir / name: content for name, content in files.items()}
    for path, content in paths.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != content):
            raise UserError(
                f"{path} is there already, with other content",
                hint="give another folder: --out DIR",
                code="name-taken",
            )
    for path, content in paths.items():
        make_dir(path.parent, inside=make_dir(out_dir))
        write_bytes(path, content)
    return list(paths)


def _make_hub_name(text: str) -> str:
    """Return a name as the Hub has them; `+` and `=` of a changed setting become `-`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.") or "method"


def _make_all_printable(content: Any) -> Any:
    """Return what JSON and YAML hold with every text in it printable."""
    if isinstance(content, str):
        return make_printable(content)
    if isinstance(content, dict):
        return {_make_all_printable(key): _make_all_printable(one) for key, one in content.items()}
    return [_make_all_printable(one) for one in content] if isinstance(content, list) else content


def _find_source(record: Record) -> dict[str, str]:
    """Return where the results can be followed up: images before paper before code."""
    places = {
        "Images": record.images_url, "Paper": record.paper_url, "Code": record.code_url,
    }  # fmt: skip
    return next(({"url": url, "name": name} for name, url in places.items() if url), {})


def _render_eval_results(record: Record, dataset: str) -> dict[PurePosixPath, bytes]:
    """Return the file of the Hub's eval results (huggingface/hub-docs, docs/hub/eval-results.md).

    A task is PROTOCOL-METRIC, as the benchmark's `eval.yaml` has to name it.
    """
    from huggingface_hub.utils import yaml_dump  # noqa: PLC0415  (slow import)

    entries: list[dict[str, Any]] = []
    for name, entry in record.metrics.items():
        if entry.whole.mean is None or not entry.info.listed:
            continue
        whole, source = entry.whole, _find_source(record)
        interval = "" if whole.low is None else f"95 % interval {whole.low} to {whole.high}; "
        entries.append(
            {
                "dataset": {"id": dataset, "task_id": f"{record.protocol.name}-{name}"},
                "value": whole.mean,
                "date": record.sessions[-1].started,
                **({"source": source} if source else {}),
                "evaluation_framework": "dreambench",
                "notes": f"{entry.info.signature}; {interval}{record.n_images} images of "
                f"{whole.n_subjects} subjects; record {record.path.as_posix()}, {record.status}",
            }
        )
    path = PurePosixPath(".eval_results", f"dreambench-{record.protocol.name}.yaml")
    return {path: str(yaml_dump(_make_all_printable(entries), sort_keys=False)).encode()}


def _render_model_index(record: Record, model: str, dataset: str) -> dict[PurePosixPath, bytes]:
    """Return a model card with a model-index (huggingface/hub-docs, modelcard.md)."""
    from huggingface_hub import EvalResult, ModelCardData  # noqa: PLC0415  (slow import)

    source = _find_source(record)
    results = [
        EvalResult(
            task_type="text-to-image",
            task_name="Subject-driven image generation",
            dataset_type=dataset,
            dataset_name=make_printable(record.protocol.title),
            dataset_args={"protocol": record.protocol.name, "digest": record.digests.protocol},
            metric_type=name,
            metric_name=make_printable(entry.info.title),
            metric_value=entry.whole.mean,
            metric_args={
                "signature": make_printable(entry.info.signature or ""), "low": entry.whole.low,
                "high": entry.whole.high, "record": record.path.as_posix(),
                "status": record.status,
            },
            source_name=source.get("name"),
            source_url=source.get("url"),
        )
        for name, entry in record.metrics.items()
        if entry.whole.mean is not None and entry.info.listed
    ]  # fmt: skip
    data = ModelCardData(
        model_name=model.split("/")[1], pipeline_tag="text-to-image", tags=["dreambench"],
        eval_results=results,
    )  # fmt: skip
    text = f"---\n{data.to_yaml()}\n---\n\n# {model.split('/')[1]}\n"
    return {PurePosixPath("README.md"): text.encode()}
