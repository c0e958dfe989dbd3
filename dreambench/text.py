r"""Text of strangers as it is shown: what a terminal would obey or no eye could see is spelled out.

Names, titles, prompts and messages come from files that someone else wrote. An escape sequence
among them moves the cursor, a right-to-left override turns a file name round, a line feed makes up
a line of ours. Every output passes its text through `make_printable`: a terminal and its log
(`cli.shared.say`), tables (`report.formatting`), Markdown, CSV, HTML, plots, messages of errors.
"""

from __future__ import annotations

import re
import unicodedata

_SURROGATES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
# Letters and marks by their category, but nothing is drawn for them (Default_Ignorable, braille).
_BLANKS = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
_JOINERS = "\u200c\u200d"
_MODIFIERS = "\ufe0f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
"""What may follow an emoji and belongs to it: a style, and colours of skin."""
_CONTEXT = 40
"""Letters on each side of a joiner that say whether it joins them."""


def make_printable(text: str) -> str:
    r"""Return a text in one line, all of which is seen: spelled `\x1b`, `\n`, `\u202e` where not.

    Control and format characters, line ends, lone surrogates, private and unassigned characters are
    spelled; spaces of every width and joiners between letters stay. Bytes of a file name that are
    not UTF-8 are shown as `\xe9`.
    """
    if text.isascii() and text.isprintable():
        return text
    text = _SURROGATES.sub(lambda found: _spell(found[0]), text)
    # A name from the system holds bytes that its encoding does not know (PEP 383).
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    text = "".join(
        letter if letter in _JOINERS or _is_seen(letter) else _spell(letter) for letter in text
    )
    # From the last to the first, so that places before one stay.
    for index in reversed([found.start() for found in re.finditer(f"[{_JOINERS}]", text)]):
        if not _joins(text, index):
            text = text[:index] + _spell(text[index]) + text[index + 1 :]
    return text


def _joins(text: str, index: int) -> bool:
    """Return whether a joiner stands between letters, or emoji, that it changes (RFC 5892, A)."""
    from idna.core import valid_contextj  # noqa: PLC0415  (large tables, and rarely needed)

    before, behind = text[max(0, index - _CONTEXT) : index], text[index + 1 : index + 1 + _CONTEXT]
    emoji = before.rstrip(_MODIFIERS)
    if emoji and behind and {unicodedata.category(c) for c in (emoji[-1], behind[0])} == {"So"}:
        return True
    try:
        return bool(valid_contextj(before + text[index] + behind, len(before)))
    except ValueError:  # A neighbour that Unicode knows nothing of.
        return False


def make_lines_printable(text: str) -> str:
    """Return a text of several lines, such as a traceback, each as `make_printable` has it."""
    return "\n".join(map(make_printable, text.split("\n")))


def _is_seen(letter: str) -> bool:
    return unicodedata.category(letter) == "Zs" or (letter.isprintable() and letter not in _BLANKS)


def _spell(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


_FOLDERS = re.compile(r"(?:(?<![\w./\\])[A-Za-z]:)?(?<![\w./\\])[/\\](?:[^/\\\s'\"]+[/\\])+")


def hide_folders(text: str) -> str:
    """Return a message in one line with names of files but not of the folders of this machine."""
    return " ".join(_FOLDERS.sub("", text).split())


def names_folder(text: str) -> bool:
    """Return whether a text has a path that starts at the root or the home of a machine."""
    return bool(_FOLDERS.search(text))
