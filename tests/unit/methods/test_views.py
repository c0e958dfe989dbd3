"""Which view a prompt asks for."""

import pytest

from dreambench.config.protocol import list_protocols, load_protocol
from dreambench.methods.editing.composition import remove_subject
from dreambench.methods.reconstruction.views import find_view


@pytest.mark.parametrize(
    ("words", "azimuth", "steepness"),
    [
        ("seen from the top", 0, 1), ("seen from the bottom", 0, -1), ("seen from below", 0, -1),
        ("seen from above at an angle", 0, 1), ("seen from a low angle", 0, -1),
        ("seen from the side", 90, 0), ("seen from the back", 180, 0),
        ("seen from the front", 0, 0), ("in a three-quarter view", 45, 0),
    ],
)  # fmt: skip
def test_words_are_angles(words, azimuth, steepness):
    view, rest = find_view(f"a {{subject}} {words}")
    assert rest == "a {subject}"
    assert view.azimuth == azimuth
    # Without one of its own the elevation is that of the photos.
    assert (view.elevation or 0) * steepness >= 0
    assert (view.elevation is None) is (steepness == 0)


def test_a_place_beside_the_view_is_left():
    view, rest = find_view("a {subject} seen from the back on the beach")
    assert view.azimuth == 180
    assert rest == "a {subject} on the beach"
    assert remove_subject(rest) == "on the beach"


@pytest.mark.parametrize("text", ["a {subject} on top of a wooden floor", "a red {subject}"])
def test_no_view_is_found_where_none_is_asked_for(text):
    assert find_view(text) == (None, text)


@pytest.mark.parametrize("name", list_protocols())
def test_every_viewpoint_prompt_of_the_package_is_known(name):
    for prompt in load_protocol(name).prompts:
        view, rest = find_view(prompt.text)
        assert (view is not None) is (prompt.family == "viewpoint"), prompt.text
        assert view is None or remove_subject(rest) == ""
