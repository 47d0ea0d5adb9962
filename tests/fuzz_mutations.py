"""Damage to files: what disks, transfers, editors and ill will make of them."""

import os
import pathlib
import re
from collections.abc import Callable, Sequence

from numpy.random import Generator

NUMBERS = (
    "-1",
    "0",
    "1e999",
    "NaN",
    "-Infinity",
    "1" + "0" * 400,
    "9223372036854775808",
    "0.0000001",
    "4294967295",
    '"0"',
)
TEXTS = (
    *('"\\u0000"', '"../../etc/passwd"', '"/dev/zero"', '"\\ud800"', '"=1+1"', '"\\u001b[31m"', '""', "null", "true"),
    *("[]", "{}", '"' + "x" * 3000 + '"', "[" * 3000 + "]" * 3000),
)
SIZES = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\x75\x30", b"\xff" * 8)
ENDS = (b"", b"\0" * 64, b"\xef\xbb\xbf", b"\xff\xfe", b"<!ENTITY a 'a'>", b"\r\n")
NAMES = (b"caf\xe9.png", b"a\nb.jpg", b"\x1b[31m.png", b"CON.jpg", b"x" * 200 + b".png", b"-rf.png", b"a,b;c.png")


def flip(data: bytes, rng: Generator) -> bytes:
    """Change some bits."""
    changed = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 9)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite(data: bytes, rng: Generator) -> bytes:
    """Put a size, as binary formats have it, anywhere."""
    place, size = int(rng.integers(len(data))), SIZES[rng.integers(len(SIZES))]
    return data[:place] + size + data[place + len(size) :]


def truncate(data: bytes, rng: Generator) -> bytes:
    """Cut the end off."""
    return data[: rng.integers(len(data))]


def cut(data: bytes, rng: Generator) -> bytes:
    """Take a piece out."""
    one, other = sorted(rng.integers(0, len(data), 2).tolist())
    return data[:one] + data[other:]


def repeat(data: bytes, rng: Generator) -> bytes:
    """Put a piece in twice."""
    one, other = sorted(rng.integers(0, len(data), 2).tolist())
    return data[:other] + data[one:other][:4096] + data[other:]


def pad(data: bytes, rng: Generator) -> bytes:
    """Put something before or behind it."""
    more = ENDS[rng.integers(len(ENDS))]
    return more + data if rng.random() < 0.5 else data + more


def number(data: bytes, rng: Generator) -> bytes:
    """Put another number in the place of one."""
    return _replace(data, rb"-?\d+(\.\d+)?", NUMBERS, rng)


def text(data: bytes, rng: Generator) -> bytes:
    """Put another value in the place of a quoted text or a number."""
    return _replace(data, rb'"[^"]*"|-?\d+(\.\d+)?', TEXTS + NUMBERS, rng)


def element(data: bytes, rng: Generator) -> bytes:
    """Put anything in the place of what stands between two tags or commas."""
    return _replace(data, rb"(?<=[>,\n])[^<>,\n]+", TEXTS + NUMBERS, rng)


def _replace(data: bytes, pattern: bytes, values: Sequence[str], rng: Generator) -> bytes:
    found = list(re.finditer(pattern, data[:20_000]))
    if not found:
        return flip(data, rng)
    one = found[rng.integers(len(found))]
    return data[: one.start()] + values[rng.integers(len(values))].encode() + data[one.end() :]


BYTES: tuple[Callable[[bytes, Generator], bytes], ...] = (flip, overwrite, truncate, cut, repeat, pad)
LETTERS = (number, text, element, truncate, cut, pad, flip)
TEXTUAL = (".json", ".jsonl", ".xml", ".csv", ".txt", ".yaml")


def damage_file(path: pathlib.Path, rng: Generator) -> str:
    """Damage the content of a file; gives the names of what was done."""
    data = path.read_bytes()
    chosen = LETTERS if path.suffix in TEXTUAL and rng.random() < 0.8 else BYTES
    names = []
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        mutation = chosen[rng.integers(len(chosen))]
        data = mutation(data, rng)
        names.append(mutation.__name__)
    path.write_bytes(data)
    return "+".join(names)


def replace_file(path: pathlib.Path, rng: Generator) -> str:
    """Put something that is no such file in its place."""
    kind = ("missing", "folder", "fifo", "loop", "empty", "renamed")[rng.integers(6)]
    if kind == "renamed":
        os.rename(path, os.path.join(os.fsencode(path.parent), NAMES[rng.integers(len(NAMES))]))
        return kind
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.parent, target_is_directory=True)
    elif kind == "empty":
        path.touch()
    return kind


def damage(files: Sequence[pathlib.Path], rng: Generator) -> str:
    """Damage one or two of some files; says which, and how."""
    said = []
    for _ in range(1 + int(rng.random() < 0.2)):
        path = files[rng.integers(len(files))]
        if path.is_file():
            how = replace_file(path, rng) if rng.random() < 0.1 else damage_file(path, rng)
            said.append(f"{path.name}: {how}")
    return ", ".join(said)
