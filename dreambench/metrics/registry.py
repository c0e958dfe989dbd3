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
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import dreambench.metrics
from dreambench.config.protocol import Protocol
from dreambench.errors import UserError, unknown_name
from dreambench.metrics.base import Metric
from dreambench.plugins import (
    LoadedClass,
    list_entry_points,
    load_entry_point,
    load_reference,
    plugin_error,
)

GROUP = "dreambench.metrics"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


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
    return [*load_own_metrics(), *list_entry_points(GROUP)]


def find_metric(name: str) -> ChosenMetric:
    """Return a metric by name, or by `FILE.py:Class`, whose code is then executed.

    Raises:
        UserError: it is unknown, or the class is not a valid metric.
    """
    own = load_own_metrics()
    if name in own:
        return ChosenMetric(own[name])
    if ".py" in name:
        return _make_metric(load_reference(name, option="--metric"))
    return _make_metric(load_entry_point(GROUP, name, kind="metric", known=tuple(own)))


def choose_metrics(protocol: Protocol, extra: Sequence[str] = ()) -> list[ChosenMetric]:
    """Return the metrics of a protocol, then the package's own others, then the `extra` ones.

    The order is that of tables. Metrics with the tag "paper" are left out where the protocol does
    not list them. `extra` are names or `FILE.py:Class`.

    Raises:
        UserError: a name is unknown, or two metrics have the same name.
    """
    check_metrics(protocol)
    chosen = [find_metric(name) for name in protocol.metrics]
    names = {one.metric.name for one in chosen}
    for name, metric in load_own_metrics().items():
        if name not in names and "paper" not in metric.tags:
            chosen.append(ChosenMetric(metric))
    wanted = [replace(find_metric(name), is_extra=True) for name in extra]
    named = {one.metric.name for one in wanted if not one.code}
    chosen = [one for one in chosen if one.metric.name not in named] + wanted
    taken: set[str] = set()
    for one in chosen:
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
    if isinstance(value.inputs, str) or not all(isinstance(one, str) for one in value.inputs):
        raise UserError(
            f"the inputs of {where} are not a tuple of names",
            hint='for instance inputs = ("dino",)',
            code="invalid-plugin",
        )
    try:
        return ChosenMetric(value(), loaded.code)
    except Exception as error:
        raise plugin_error(where, error) from error
