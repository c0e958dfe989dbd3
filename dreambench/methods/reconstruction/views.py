"""Which view a prompt asks for, and where the camera of that view stands.

Azimuth 0 sees the front and 90 the side on the right of who looks at it; elevation 90 looks down.
The angles are those at which a photographer shows a view: a picture "from the top" is taken from
steeply above, since straight down hides all sides, and the other angles are what the words say of
an ordinary photo. None is the usual elevation of the subject's own photos.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """Where a camera stands, in degrees. `either_side`: the mirrored azimuth is as good."""

    azimuth: float
    elevation: float | None = None
    either_side: bool = False


_SEEN = r"(?:seen|viewed|photographed)\s+from\s+"
VIEWS = {
    rf"{_SEEN}(?:the\s+top|directly\s+above)": View(0, 75),
    rf"{_SEEN}the\s+bottom": View(0, -75),
    rf"{_SEEN}above(?:\s+at\s+an\s+angle)?": View(0, 40),
    rf"{_SEEN}below": View(0, -40),
    rf"{_SEEN}a\s+low\s+angle": View(0, -15),
    rf"{_SEEN}the\s+side": View(90, None, True),
    rf"{_SEEN}(?:the\s+back|behind)": View(180),
    rf"{_SEEN}the\s+front": View(0),
    r"in\s+a\s+three-quarter\s+view": View(45, None, True),
}
"""Pattern of the words in a prompt, those of the package's protocols among them: view."""


def find_view(prompt: str) -> tuple[View | None, str]:
    """Return the view that a prompt asks for, and the prompt without its words.

    "a {subject} seen from the back on the beach" gives the back, and "a {subject} on the beach".
    """
    for pattern, view in VIEWS.items():
        rest, n_found = re.subn(rf",?\s*\b{pattern}\b", "", prompt)
        if n_found:
            return view, " ".join(rest.split())
    return None, prompt
