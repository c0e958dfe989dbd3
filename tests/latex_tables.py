"""A strict reader of the LaTeX that reports hold: anything that it does not know is a fault."""

import re

COMMANDS = re.compile(
    "begin|end|centering|caption|label|small|footnotesize|scriptsize|setlength|tabcolsep|belowcaptionskip|toprule|"
    "midrule|bottomrule|multicolumn|tabularnewline|textbf|texttt|emph|raggedright|allowbreak|"
    "uparrow|downarrow|text(backslash|ascii(tilde|circum|grave)|less|greater|bar|quote(dbl|single))"
    "|[{}$&#%_,]"
)
TOKEN = re.compile(r"\\([A-Za-z]+|.)|(%[^\n]*\n)|([{}$&#_^~])|([^\\%{}$&#_^~]+)", re.DOTALL)
RULES = re.compile(r"\\(toprule|midrule|bottomrule)\s*")
MULTI = re.compile(r"\s*\\multicolumn\{(\d+)\}")


def read_tables(text):
    """Return the rows of each tabular as lists of cells, as source; a wrong table is refused."""
    _check_tokens(text)
    source = re.sub(r"(?m)(?<!\\)%.*\n", "", text)
    tables = []
    for found in re.finditer(
        r"\\begin\{tabular\}\{([^\n]*)\}\n(.*?)\\end\{tabular\}", source, re.DOTALL
    ):
        width = _count_columns(found[1])
        rows = [RULES.sub("", row) for row in found[2].split(r"\tabularnewline")]
        assert not re.sub(r"\[2pt\]|\s", "", rows.pop())
        cells = [re.split(r"(?<!\\)&", re.sub(r"^\s*(\[2pt\])?\s*", "", row)) for row in rows]
        for row in cells:
            spans = [int(m[1]) if (m := MULTI.match(cell)) else 1 for cell in row]
            assert sum(spans) == width, (width, row)
            assert not row[0].lstrip().startswith(("[", "*")), row
        tables.append([[cell.strip() for cell in row] for row in cells])
    assert tables
    return tables


def _check_tokens(text):
    stack, is_math, end = [], False, 0
    for token in TOKEN.finditer(text):
        assert token.start() == end, text[end : token.start()]
        end = token.end()
        command, _, sign, words = token.groups()
        if command:
            assert COMMANDS.fullmatch(command), command
        elif sign == "{":
            stack.append(sign)
        elif sign == "}":
            assert stack.pop() == "{"
        elif sign == "$":
            is_math = not is_math
        elif sign:
            assert sign in "&~", sign
        elif words:
            assert all(c.isascii() or "\xa0" < c <= "\u017f" for c in words), words
    assert end == len(text) and not stack and not is_math
    environments = re.findall(r"\\(begin|end)\{(table\*?|tabular)\}", text)
    for kind, name in environments:
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack


def _count_columns(specification):
    plain = re.sub(r"@\{[^{}]*(\{\})?[^{}]*\}|@\{\\,\}", "", specification)
    return len(re.findall(r"[lrc]|p\{[^}]*\}", re.sub(r"@\{\}", "", plain)))
