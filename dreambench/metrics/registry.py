"""All metrics by name: the package's own, those of installed packages, and those named as files.

The package's own are the classes in the modules of this folder; those of others are entry points
of the group `dreambench.metrics`, whose names a protocol may list, and `FILE.py:Class`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Any, get_args

import dreambench.metrics
from dreambench.artifacts.results import Prompts
from dreambench.config.protocol import Protocol
from dreambench.errors import UserError, unknown_name
from dreambench.metrics.base import Metric, Takes, Unit
from dreambench.plugins import (
    LoadedClass,
    find_code_file,
    find_entry_point,
    list_entry_points,
    plugin_error,
)

GROUP = "dreambench.metrics"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""As protocols name metrics (`config.protocol.MetricName`)."""


def _is_tuple_of(kind: type | UnionType, value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, kind) for one in value)


def _are_bounds(value: Any) -> bool:
    return _is_tuple_of(float | int, value) and len(value) == 2 and value[0] < value[1]


_VALID: dict[str, tuple[Callable[[Any], bool], str]] = {
    "title": (lambda v: isinstance(v, str) and bool(v), "name it by a text"),
    "inputs": (lambda v: _is_tuple_of(str, v), 'use a tuple of names, e.g. ("dino",)'),
    "version": (lambda v: isinstance(v, int), "use a whole number"),
    "bounds": (_are_bounds, "use the ends of its range, e.g. (0.0, 1.0)"),
    "unit": (lambda v: v in get_args(Unit), f"use one of {', '.join(get_args(Unit))}"),
    "takes": (lambda v: v in get_args(Takes), f"use one of {', '.join(get_args(Takes))}"),
    "prompts": (lambda v: v in get_args(Prompts), f"use one of {', '.join(get_args(Prompts))}"),
}
"""By attribute of a metric from outside: which values are valid, and the hint for others."""


@dataclass(frozen=True)
class ChosenMetric:
    """A metric and which code it is; no code for the package's own.

    `is_extra` marks one that was asked for besides those of the protocol.
    """

    metric: Metric
    code: dict[str, str] = field(default_factory=dict)
    is_extra: bool = False


@functools.cache
def load_own_metrics() -> dict[str, Metric]:
    """Return the package's own metrics by name, in the order of tables."""
    found: list[Metric] = []
    for module in pkgutil.iter_modules(dreambench.metrics.__path__):
        names = vars(importlib.import_module(f"{dreambench.metrics.__name__}.{module.name}"))
        for value in names.values():
            if (
                inspect.isclass(value)
                and issubclass(value, Metric)
                and value.__module__.endswith(f".{module.name}")
                and hasattr(value, "name")
            ):
                found.append(value())
    return {metric.name: metric for metric in sorted(found, key=lambda one: one.place)}


def list_metric_names() -> list[str]:
    """Return the names that a protocol may list; imports no code from outside."""
    return list(dict.fromkeys([*load_own_metrics(), *list_entry_points(GROUP)]))


def find_metric(name: str) -> ChosenMetric:
    """Return a metric by name, or by `FILE.py:Class`, whose code is then executed.

    Raises:
        UserError: it is unknown, or the class is not a valid metric.
    """
    own = load_own_metrics()
    if name in own:
        return ChosenMetric(own[name])
    if ".py" in name:
        return _make_metric(find_code_file(name, option="--metric").load())
    chosen = _make_metric(find_entry_point(GROUP, name, kind="metric", known=tuple(own)).load())
    if chosen.metric.name != name:
        # A protocol that lists it would look for its numbers under the other name.
        raise UserError(
            f"the entry point '{name}' is of a metric with the name '{chosen.metric.name}'",
            hint="give both the same name",
            code="invalid-plugin",
        )
    return chosen


def choose_metrics(protocol: Protocol, extra: Sequence[str] = ()) -> list[ChosenMetric]:
    """Return the metrics of a protocol, then the package's own others, then the `extra` ones.

    The order is that of tables. Metrics with the tag "paper" are left out where the protocol does
    not list them, and so are those for another number of subjects in an image. `extra` are names
    or `FILE.py:Class`.

    Raises:
        UserError: a name is unknown, two metrics have the same name, or one that is asked for is
            for another number of subjects.
    """
    check_metrics(protocol)
    takes = ("any", "two" if protocol.pairs else "one")
    chosen = [find_metric(name) for name in protocol.metrics]
    names = {one.metric.name for one in chosen}
    for name, metric in load_own_metrics().items():
        if name not in names and "paper" not in metric.tags and metric.takes in takes:
            chosen.append(ChosenMetric(metric))
    wanted = [replace(find_metric(name), is_extra=True) for name in extra]
    named = {one.metric.name for one in wanted if not one.code}
    chosen = [one for one in chosen if one.metric.name not in named] + wanted
    taken: set[str] = set()
    for one in chosen:
        if one.metric.takes not in takes:
            shown = "two subjects" if protocol.pairs else "one subject"
            raise UserError(
                f"the metric '{one.metric.name}' is for {one.metric.takes} a picture, and the "
                f"images of '{protocol.name}' show {shown}",
                hint="dreambench metrics list says which are for how many",
                code="unsupported-metric",
            )
        if one.metric.name in taken:
            raise UserError(
                f"two metrics have the name '{one.metric.name}'",
                hint="rename yours: the attribute `name` of its class",
                code="name-taken",
            )
        taken.add(one.metric.name)
    return sorted(chosen, key=lambda one: one.metric.place)


def check_metrics(protocol: Protocol) -> None:
    """Refuse a protocol that lists a metric which nobody has; imports no code from outside."""
    known = list_metric_names()
    for index, name in enumerate(protocol.metrics):
        if name not in known:
            error = unknown_name("metric", name, known)
            where = protocol.locate("metrics", index)
            raise UserError(f"{where}: {error.problem}", hint=error.hint, code=error.code)


def _make_metric(loaded: LoadedClass) -> ChosenMetric:
    """Return a metric of a class from outside; UserError unless it is a valid one."""
    where, value = loaded.where, loaded.value
    hint = "inherit from dreambench.Metric (docs: how-to/add-a-metric)"
    if not (inspect.isclass(value) and issubclass(value, Metric)):
        raise UserError(f"{where} is not a Metric", hint=hint, code="invalid-plugin")
    lacking = [key for key in ("name", "title", "inputs") if not hasattr(value, key)]
    if inspect.isabstract(value):
        lacking += sorted(value.__abstractmethods__)
    if lacking:
        raise UserError(f"{where} lacks {', '.join(lacking)}", hint=hint, code="invalid-plugin")
    if not (isinstance(value.name, str) and _NAME.fullmatch(value.name)):
        raise UserError(
            f"{where} has the name {value.name!r}", hint="use a-z, 0-9 and -", code="invalid-plugin"
        )
    for key, (is_valid, wanted) in _VALID.items():
        found = getattr(value, key)
        if not is_valid(found):
            raise UserError(
                f"the attribute {key} of {where} is {found!r}", hint=wanted, code="invalid-plugin"
            )
    try:
        return ChosenMetric(value(), loaded.code)
    except Exception as error:
        raise plugin_error(where, error) from error
