"""Hostile inputs made from good ones. Every function takes its randomness and is repeatable."""

from __future__ import annotations

import csv
import io
import json
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random

Mutation = Callable[[Random, bytes], bytes]

EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CONTROLS = ("\x1b[2J\x1b[31m", "\x1b]0;title\x07", "\u202e", "\x9b2J", "\r", "\x08" * 5, "\u2028")
WORDS = (
    "", " ", ".", "..", "../../canary/x", "{canary}/x", "~", "~/x", "a/b", "a\\b", "C:\\x", "nul",
    "con.txt", "-rf", "--help", "a\nb", "a\rb", "a\tb", "a,b", 'a"b', "a;b", "a|b", "a'b", "`id`",
    "$(id)", "${HOME}", "%s%n", "=1+1", "@SUM(A1)", "+1", "-1", "<script>alert(1)</script>",
    "![x](http://127.0.0.1/x)", "{subject}", "{class}", "{subject!r:>1000000000}", "{0}", "{{x}}",
    "{subject.__class__}", "{", "}", "\x00", "a\x00b", "²", "\u0661", "é", "e\u0301", "小狗", "🐕",
    "\ufeff", "\ufffe", "a" * 300, "é" * 200, "a" * 140_000, "nan", "inf", "true", "null", "None",
    "0", "-0", "007", "1.5", "1e400", "9" * 5000, "dog", "DOG", "dog ", " dog", "mug", "prior",
    "images", "train", ".staging", "run.json", "x.part", "x.ready", ".lock", "index.csv",
    *(f"a{c}b" for c in CONTROLS),
)  # fmt: skip
TOML_VALUES = (
    "true", "false", "inf", "-inf", "nan", "0", "-1", "1.5", "3.0", "1e400", "70", "1000000000",
    "9223372036854775807", "9223372036854775808", "9" * 5000, "0x10", "1_000", "[]", "{}", '""',
    '" "', '"dog"', "'''a\nb'''", '"\\u0000"', '"\\u001b[2J"', '"\\u202e"', "1979-05-27",
    "07:32:00", "[[1], [2]]", "[1, \"a\"]", "{a = 1}", "[" * 3000 + "]" * 3000,
    "{a=" * 500 + "1" + "}" * 500, '"{subject!r:>1000000000}"', '"a {subject} {subject}"',
    '"{subject:>99999999}"', '"{subject[0]}"', '"{{subject}}"', '"a {class} {subject}"',
    '"../../canary/x.py:Evil"', '"{canary}/evil.py:Evil"', '"../../canary"', '"{canary}"',
    '"' + "a " * 5000 + '"', "[" + '"x",' * 3000 + "]", '["dog", "dog"]', '["dog", 1]',
    '"mini"', '"dreambooth"', '"sd15={canary}"', '"ddim"', '"euler"', "2", "64", "513",
)  # fmt: skip
JSON_VALUES = (
    None, True, False, 0, -1, 1.5, 10**20, 1e308, "", "x", [], {}, [[]], {"a": 1}, "\x1b[2J",
    "\u202e", "../../canary/x", "{canary}/x", "{canary}/evil.py", "{subject!r:>1000000000}",
    "a" * 140_000, "nan", "\ud800", ["dog"] * 3, 10**9, "2999-01-01",
)  # fmt: skip


def mutate_bytes(rng: Random, content: bytes) -> bytes:
    """Change a few bytes, as a bad disk, a cut download or a fuzzer does."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        size = len(data)
        at = rng.randrange(size + 1)
        span = min(rng.choice((1, 2, 4, 8, 64, 512)), size - at)
        way = rng.randrange(9)
        if way == 0 and at < size:
            data[at] ^= 1 << rng.randrange(8)
        elif way == 1 and at < size:
            data[at] = rng.choice((0, 0xFF, rng.randrange(256)))
        elif way == 2:
            data[at:at] = rng.randbytes(rng.choice((1, 4, 32)))
        elif way == 3:
            del data[at : at + span]
        elif way == 4:
            data[at:at] = data[at : at + span]
        elif way == 5:
            data[at : at + span] = bytes(span)
        elif way == 6:
            data[at:] = bytes(size - at)
        elif way == 7:
            del data[at:]
        else:
            form = rng.choice((">I", "<I", ">H", "<H"))
            value = rng.choice(EDGES) & (0xFFFF if "H" in form else 0xFFFFFFFF)
            data[at : at + struct.calcsize(form)] = struct.pack(form, value)
    return bytes(data)


def split_png(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return type and data of each chunk of a whole PNG."""
    chunks, at = [], len(PNG_SIGNATURE)
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def join_png(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG of these chunks, with their right checksums."""
    parts = [PNG_SIGNATURE]
    for kind, data in chunks:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        parts += [struct.pack(">I", len(data)), kind, data, checksum]
    return b"".join(parts)


def mutate_png(rng: Random, content: bytes) -> bytes:
    """Change chunks of a PNG and make the checksums again."""
    chunks = split_png(content)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(chunks))
        kind, data = chunks[at]
        way = rng.randrange(9)
        if way <= 2:
            chunks[at] = (kind, mutate_bytes(rng, data))
        elif way == 3 and len(chunks) > 1:
            del chunks[at]
        elif way == 4:
            chunks.insert(rng.randrange(len(chunks) + 1), (kind, data))
        elif way == 5:
            chunks[at] = (kind, data[: rng.randrange(len(data) + 1)])
        elif way == 6 and chunks[0][0] == b"IHDR" and len(chunks[0][1]) == 13:
            width, height = (rng.choice((0, 1, 64, 8000, *EDGES)) for _ in range(2))
            chunks[0] = (b"IHDR", struct.pack(">II", width, height) + chunks[0][1][8:])
        elif way == 7:
            extra = rng.choice((b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"acTL", b"tRNS"))
            bomb = zlib.compress(bytes(rng.choice((10, 50_000_000))))
            inner = rng.choice((rng.randbytes(20), b"x\0\0" + bomb, b"\0\0\0\1\0\0\0\0", b""))
            chunks.insert(1, (extra, inner))
        else:
            cut = rng.randrange(len(data) + 1)
            chunks[at] = (kind, data[:cut] + bytes(len(data) - cut))
    return join_png(chunks)


def mutate_text(rng: Random, content: bytes) -> bytes:
    """Save a text as other programs do, or as none does."""
    text = content.decode(errors="replace")
    return rng.choice((
        lambda: b"\xef\xbb\xbf" + content,
        lambda: text.replace("\n", "\r\n").encode(),
        lambda: text.replace("\n", "\r").encode(),
        lambda: text.encode("utf-16"),
        lambda: text.encode("latin-1", errors="replace"),
        lambda: content.rstrip(b"\n"),
        lambda: content + b"\n\n \n",
        lambda: content.replace(b'"', "\u201c".encode()),
        lambda: content[: rng.randrange(len(content) + 1)],
        lambda: mutate_bytes(rng, content),
        lambda: b"",
        lambda: b"\0" * 100,
    ))()  # fmt: skip


def mutate_toml(rng: Random, content: bytes) -> bytes:
    """Change lines and values of a TOML file."""
    lines = content.decode().split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        key, equals, _ = lines[at].partition(" = ")
        way = rng.randrange(10)
        if equals and way <= 5:
            lines[at] = f"{key} = {rng.choice(TOML_VALUES)}"
        elif way == 6:
            lines[at : at + 1] = []
        elif way == 7:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif way == 8:
            word = rng.choice(WORDS).replace("\\", "\\\\").replace('"', '\\"')
            lines.insert(at, f'"{word}" = {rng.choice(TOML_VALUES)}')
        else:
            tables = ("[x]", "[[prompts]]", "[mini]", "[sampler]", "[a.b.c]", "[prompts]")
            lines.insert(at, rng.choice(tables))
        lines = lines or [""]
    changed = "\n".join(lines).encode(errors="replace")
    return changed if rng.random() < 0.8 else mutate_text(rng, changed)


def mutate_csv(rng: Random, content: bytes) -> bytes:
    """Change cells, rows and the dialect of a table."""
    rows = list(csv.reader(io.StringIO(content.decode())))
    for _ in range(rng.choice((0, 1, 1, 2))):
        at = rng.randrange(len(rows))
        column = rng.randrange(len(rows[at])) if rows[at] else 0
        way = rng.randrange(9)
        if way <= 4 and rows[at]:
            rows[at][column] = rng.choice(WORDS)
        elif way == 5:
            rows.insert(rng.randrange(len(rows) + 1), list(rows[at]))
        elif way == 6 and len(rows) > 1:
            del rows[at]
        elif way == 7:
            rows[at] = rows[at][:column] if rng.random() < 0.5 else [*rows[at], rng.choice(WORDS)]
        elif way == 8:
            for row in rows:
                if column < len(row):
                    row.insert(rng.randrange(len(row)), row.pop(column))
    if rng.random() < 0.3:
        style = rng.choice((str.upper, str.title, lambda c: f" {c} ", lambda c: f'"{c}"'))
        rows[0] = [style(cell) for cell in rows[0]]
    stream = io.StringIO()
    delimiter = rng.choice((",", ",", ",", ";", "\t", "|"))
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator="\n").writerows(rows)
    text = ("sep=;\n" if delimiter == ";" and rng.random() < 0.3 else "") + stream.getvalue()
    changed = text.encode(errors="replace")
    return changed if rng.random() < 0.6 else mutate_text(rng, changed)


def mutate_json(rng: Random, content: bytes) -> bytes:
    """Change values and keys anywhere in a JSON file."""
    if rng.random() < 0.2:
        return mutate_text(rng, content)
    if rng.random() < 0.05:
        return rng.choice((b"[" * 100_000, b'{"a":' * 50_000, b"NaN", b"9" * 5000, b"null", b"{}"))
    tree = json.loads(content)
    for _ in range(rng.choice((1, 1, 2))):
        holder, key = _pick(rng, tree)
        way = rng.randrange(4)
        if way <= 1:
            holder[key] = rng.choice(JSON_VALUES)
        elif way == 2:
            del holder[key]
        elif isinstance(holder, dict):
            holder[rng.choice(WORDS)] = holder.pop(key)
        else:
            holder.append(holder[key])
        tree = tree or {"x": 1}
    return json.dumps(tree, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")


def _pick(rng: Random, tree: object) -> tuple[object, object]:
    """Return a dict or list inside of a JSON value, and one of its keys."""
    found = []
    left = [tree]
    while left:
        value = left.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            found.append((value, key))
            if isinstance(value[key], dict | list):
                left.append(value[key])
    return rng.choice(found)


def make_zip(rng: Random, sizes: Sequence[int]) -> bytes:
    """Make an archive with hostile names, links and sizes, among them those that are wanted."""
    buffer = io.BytesIO()
    warnings.simplefilter("ignore", UserWarning)  # Some names are there twice.
    with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as z:
        for _ in range(rng.choice((0, 1, 3, 30))):
            name = rng.choice(WORDS).replace("\0", "")[:60_000].encode(errors="replace").decode()
            member = zipfile.ZipInfo(name or "x")
            if rng.random() < 0.15:
                member.external_attr = rng.choice((0xA1FF, 0x21FF, 0x11FF)) << 16
            size = rng.choice((*sizes[:4], 0, 10, 70_000))
            is_zero = rng.random() < 0.7
            z.writestr(member, bytes(size) if is_zero else rng.randbytes(min(size, 9999)))
    content = buffer.getvalue()
    way = rng.random()
    if way < 0.4:
        return mutate_bytes(rng, content)
    if way < 0.6:  # The directory at the end, where the sizes and names are.
        at = max(len(content) - rng.choice((22, 60, 200)), 0)
        return content[:at] + mutate_bytes(rng, content[at:])
    if way < 0.7:
        return content.replace(b"PK\x01\x02", b"PK\x01\x02\xff\xff", 1)
    return content


def make_tar(rng: Random, sizes: Sequence[int]) -> bytes:
    """Make a tar archive likewise, plain or compressed."""
    buffer = io.BytesIO()
    mode = rng.choice(("w", "w:gz", "w:bz2", "w:xz"))
    form = rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=buffer, mode=mode, format=form, errors="replace") as archive:
        for _ in range(rng.choice((0, 1, 3, 10))):
            member = tarfile.TarInfo(rng.choice(WORDS).replace("\0", "")[:5000] or "x")
            member.type = rng.choice((
                tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
                tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, tarfile.DIRTYPE,
            ))  # fmt: skip
            member.linkname = rng.choice(("../../canary/x", "/etc/passwd", "x"))
            if member.type == tarfile.REGTYPE:
                member.size = rng.choice((*sizes[:4], 0, 10))
                archive.addfile(member, io.BytesIO(bytes(member.size)))
            else:
                archive.addfile(member)
    content = buffer.getvalue()
    return mutate_bytes(rng, content) if rng.random() < 0.4 else content


def make_name(rng: Random) -> str:
    """Make a name that someone could give to a subject, a prompt or a file."""
    if rng.random() < 0.7:
        return rng.choice(WORDS)
    ranges = ((0x20, 0x7F), (0xA0, 0x24F), (0x370, 0x6FF), (0x2000, 0x206F), (0x4E00, 0x4E80))
    letters = [chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.choice((1, 3, 20, 90)))]
    return "".join(letters)
