"""A byte search over every file below some folders, for values in each form a store may have written them in."""

import base64
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

BLOCK_BYTES = 8 << 20
OVERLAP_BYTES = 4 << 10


def forms(value: str) -> set[bytes]:
    """UTF-8 (which msgpack and JSON hold as it is) and lower case, each also in base64 at any offset and in hex.

    A form that is not ASCII comes as JSON's escapes too.
    """
    plain = {value.encode(), value.lower().encode(), value.encode("unicode_escape")}
    encoded = {part for text in plain for offset in range(3) for part in _base64(text, offset)}
    return plain | encoded | {text.hex().encode() for text in plain}


def _base64(text: bytes, offset: int) -> Iterator[bytes]:
    """What base64 makes of `text` behind `offset` other bytes, without the digits they share."""
    whole = bytes(offset) + text
    whole = whole[: len(whole) - len(whole) % 3]
    begin = -(-offset // 3) * 3
    for encoded in (base64.b64encode(whole[begin:]), base64.urlsafe_b64encode(whole[begin:])):
        if len(encoded) >= 8:
            yield encoded


class Wanted(NamedTuple):
    """A value's forms, and what must stand in a block before they are looked for one by one."""

    forms: frozenset[bytes]
    anchors: frozenset[bytes]


def wanted(value: str, *tokens: str) -> Wanted:
    """A value to search for. `tokens`: a rare part of it, in each spelling it has there; none: the value itself."""
    anchors = frozenset[bytes]().union(*(forms(token) for token in tokens or (value,)))
    return Wanted(frozenset(forms(value)), anchors)


def found(folders: Iterable[Path], values: Mapping[str, Wanted]) -> dict[str, list[str]]:
    """Name → the files that hold any of its forms."""
    hits: dict[str, list[str]] = {name: [] for name in values}
    for path in sorted({path for folder in folders for path in _files(folder)}):
        for name in _names_in(path, values):
            hits[name].append(str(path))
    return hits


def _files(folder: Path) -> Iterator[Path]:
    for at, _, names in os.walk(folder):
        yield from (Path(at) / name for name in names)


def _names_in(path: Path, values: Mapping[str, Wanted]) -> set[str]:
    hits: set[str] = set()
    by_anchors: dict[frozenset[bytes], list[tuple[str, frozenset[bytes]]]] = {}
    for name, one in values.items():
        by_anchors.setdefault(one.anchors, []).append((name, one.forms))
    try:
        with path.open("rb") as file:
            for block in _blocks(file.fileno()):
                for anchors, named in by_anchors.items():
                    if any(anchor in block for anchor in anchors):
                        hits |= {name for name, texts in named if any(text in block for text in texts)}
    except OSError:
        return hits  # gone meanwhile, or a socket
    return hits


def _blocks(descriptor: int) -> Iterator[bytes]:
    """What is written of a file, holes skipped, in blocks that overlap."""
    end, place = os.fstat(descriptor).st_size, 0
    while place < end:
        try:
            place = os.lseek(descriptor, place, os.SEEK_DATA)
        except OSError:
            return  # nothing but a hole is left
        block = os.pread(descriptor, BLOCK_BYTES, max(0, place - OVERLAP_BYTES))
        if not block:
            return
        yield block
        place = max(0, place - OVERLAP_BYTES) + len(block)
