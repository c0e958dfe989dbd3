r"""Text of strangers as it is shown: what a terminal would obey or no eye could see is spelled out.

Names, titles, prompts and messages come from files that somebody else wrote. An escape sequence
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
# Joiners make words of Persian and of Indian scripts, and emoji, out of letters of their own.
_JOINER = re.compile("(?<=[^\x00-\u02ff])[\u200c\u200d](?=[^\x00-\u02ff])")


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
    joiners = {found.start() for found in _JOINER.finditer(text)}
    return "".join(
        letter if index in joiners or _is_seen(letter) else _spell(letter)
        for index, letter in enumerate(text)
    )


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
