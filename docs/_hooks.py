"""Hooks of the documentation's build: the table of errors, links to the repository, the reports.

Pages link to files of the repository by relative paths, so that the links also work where the
repository is read without the site. Here those to `reports/` become pages of the site, and all
others lead to the repository's web address.
"""

from __future__ import annotations

import ast
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
WEB = "https://github.com/dreambench/dreambench/blob/main"
ERRORS = "<!-- table of errors -->"
TREE = "<!-- tree -->"
SHOWN = {".md", ".png", ".svg", ".pdf", ".csv", ".tex", ".json"}
LINK = re.compile(r"(\]\()((?:\.\./)+[^)\s#]+)")
log = logging.getLogger("mkdocs.hooks.dreambench")


def on_files(files: Files, config: Any) -> Files:
    """Add the stored reports, as they are, under reports/."""
    for path in sorted((ROOT / "reports").rglob("*")):
        if path.suffix in SHOWN:
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    _check_pages()
    return files


def _check_pages() -> None:
    """Warn of pages that messages name ("docs: how-to/add-a-metric") and that are not there."""
    for path in sorted((ROOT / "dreambench").rglob("*.py")):
        for page in re.findall(r"docs: ([a-z-]+(?:/[a-z0-9-]+)?)", path.read_text()):
            if not (ROOT / "docs" / f"{page}.md").is_file():
                log.warning("%s names docs/%s.md, which is not there", path.relative_to(ROOT), page)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in the table of errors, and lead links out of docs/ to where they exist."""
    if ERRORS in markdown:
        markdown = markdown.replace(ERRORS, "\n".join(make_error_lines()))
    if TREE in markdown:
        _check_rooms(markdown, page)
        markdown = markdown.replace(TREE, "\n".join(["```text", *make_tree_lines(), "```"]))
    if page.file.src_uri.startswith("reports/"):
        return markdown
    folder = Path("docs", page.file.src_uri).parent
    return LINK.sub(lambda match: match[1] + _lead(match[2], folder, page), markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Leave out Click's name for an option without a default."""
    return html.replace("<code>Sentinel.UNSET</code>", "")


def _lead(target: str, folder: Path, page: Any) -> str:
    """Return where a relative link leads: inside docs/ as it is, else to the site or the web."""
    path = Path(os.path.normpath(folder / target))
    if path.parts[0] == "docs":
        return target
    if not (ROOT / path).exists():
        log.warning("%s links to %s, which the repository does not have", page.file.src_uri, path)
    if path.parts[0] == "reports" and path.suffix in SHOWN:
        return os.path.relpath(path, Path(page.file.src_uri).parent)
    return f"{WEB}/{path.as_posix()}"


def _check_rooms(markdown: str, page: Any) -> None:
    """Warn of a folder or module at the top of the package that the page does not name."""
    for path in sorted((ROOT / "dreambench").iterdir()):
        name = f"{path.name}/" if (path / "__init__.py").is_file() else path.name
        is_room = name.endswith((".py", "/")) and name != "__init__.py"
        if is_room and f"`{name}`" not in markdown:
            log.warning("%s does not name dreambench/%s", page.file.src_uri, name)


def make_tree_lines() -> list[str]:
    """Return the package as a tree, each file with the first sentence of its docstring."""
    package = ROOT / "dreambench"
    lines = ["dreambench/"]
    # Files of a folder stand before the folders in it.
    paths = sorted(
        package.rglob("*.py"), key=lambda path: [(p != path.name, p) for p in path.parts]
    )
    for path in paths:
        parts = path.relative_to(package).parts
        about = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0]
        sentence = re.split(r"(?<=[.?!])\s|[.:]$", " ".join(about.split()))[0].rstrip(".")
        if path.name == "__init__.py":
            if len(parts) > 1:
                lines.append(f"{'    ' * (len(parts) - 1)}{parts[-2]}/".ljust(34) + sentence)
        else:
            lines.append(f"{'    ' * len(parts)}{path.name}".ljust(34) + sentence)
    return lines


def make_error_lines() -> list[str]:
    """Return Markdown with a heading for each error code and a table of its messages."""
    found: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for path in sorted((ROOT / "dreambench").rglob("*.py")):
        for code, problem, hint in find_errors(ast.parse(path.read_text())):
            found[code].add((problem, hint, path.relative_to(ROOT / "dreambench").parts[0]))
    lines = []
    for code in sorted(found):
        lines += ["", f"## `{code}` {{ #{code} }}", "", "| message | what to do | raised in |"]
        lines += ["|:--|:--|:--|"]
        lines += [
            f"| {problem} | {hint} | `{room}` |" for problem, hint, room in sorted(found[code])
        ]
    return lines


def find_errors(tree: ast.AST) -> Iterator[tuple[str, str, str]]:
    """Yield code, message and hint of each call with a literal `code="..."`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        code = given.get("code")
        if isinstance(code, ast.Constant) and isinstance(code.value, str) and code.value:
            problem = node.args[0] if node.args else given.get("problem")
            yield code.value, *(_show_whole(part) for part in (problem, given.get("hint")))


def _show_whole(node: ast.expr | None) -> str:
    """Return a message or hint; that it varies where no word of it stands in the call."""
    if node is None:
        return ""
    has_words = any(
        isinstance(n, ast.Constant) and isinstance(n.value, str) for n in ast.walk(node)
    )
    return _show(node) if has_words else "(varies)"


def _show(node: ast.expr) -> str:
    """Return a message as a cell of a table: f-strings with their placeholders' names."""
    if isinstance(node, ast.Constant):
        return str(node.value).replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_")
    if isinstance(node, ast.JoinedStr):
        return "".join(_show(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return f"*{_name(node.value)}*"
    if isinstance(node, ast.BinOp):
        return _show(node.left) + _show(node.right)
    if isinstance(node, ast.IfExp | ast.BoolOp):
        either = node.values if isinstance(node, ast.BoolOp) else [node.body, node.orelse]
        return " / ".join(_show(value) for value in either)
    return f"*{_name(node)}*"


def _name(node: ast.expr) -> str:
    """Return a short name of a value, for a placeholder: the last name in it."""
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name | ast.Attribute)]
    if not names:
        return "..."
    first = names[0]
    name = first.attr if isinstance(first, ast.Attribute) else first.id
    return name.strip("_").replace("_", " ")
