"""What the process imports first that others are forked from: it imports much more after it."""

from __future__ import annotations

from dreambench.machine.collection import search_less_often

search_less_often()
