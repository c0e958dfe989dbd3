"""dreambench: how faithfully does a method put a given subject into new images?

    import dreambench

    found = dreambench.run("dreambooth", protocol="mini")
    dreambench.compare([found, *found.alongside])

The names below are loaded when they are first asked for, so that importing the package is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dreambench.instructions import limit_instructions

if TYPE_CHECKING:
    from dreambench.api import Comparison as Comparison
    from dreambench.api import Result as Result
    from dreambench.api import compare as compare
    from dreambench.api import load_run as load_run
    from dreambench.api import load_subjects as load_subjects
    from dreambench.api import run as run
    from dreambench.api import score as score
    from dreambench.encoders.base import Encoder as Encoder
    from dreambench.errors import UserError as UserError
    from dreambench.methods import Method as Method
    from dreambench.metrics.base import Metric as Metric

__version__ = "0.1.0"

limit_instructions()

_PLACES = {
    "Comparison": "dreambench.api",
    "Encoder": "dreambench.encoders.base",
    "Method": "dreambench.methods",
    "Metric": "dreambench.metrics.base",
    "Result": "dreambench.api",
    "UserError": "dreambench.errors",
    "compare": "dreambench.api",
    "load_run": "dreambench.api",
    "load_subjects": "dreambench.api",
    "run": "dreambench.api",
    "score": "dreambench.api",
}

__all__ = [
    "Comparison",
    "Encoder",
    "Method",
    "Metric",
    "Result",
    "UserError",
    "__version__",
    "compare",
    "load_run",
    "load_subjects",
    "run",
    "score",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module 'dreambench' has no attribute '{name}'")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *__all__})
