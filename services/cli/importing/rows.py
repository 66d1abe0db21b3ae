"""Rows of a file as native touchpoints with stable ids, whatever its form: JSON lines or CSV, plain or gzip.

The id of a row without one is a hash of the row's text and its number: the same file gives the same ids for ever,
two equal rows of one file stay two touchpoints, and a file that only grew at its end repeats none of its old rows.
With `id_from`, the id is the hash of those columns (or JSON fields) alone, so rows may move.
"""

import csv
import gzip
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import msgspec

from services.cli.errors import WrongUse
from services.cli.importing.column_map import ColumnMap
from shared.ids import derived_id, uuid_text

GZIP_MAGIC = b"\x1f\x8b"


class Row(NamedTuple):
    """Row `number` (from 1, the header not counted) as a touchpoint, or the reason why it is none."""

    number: int
    item: dict[str, Any] | None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A file and how to read it. `columns` None means JSON lines."""

    path: Path
    columns: ColumnMap | None = None
    id_from: tuple[str, ...] = ()
    delimiter: str = ","

    def description(self) -> str:
        """Differs whenever the same bytes would give other touchpoints."""
        return repr((self.columns.description() if self.columns else "jsonl", self.id_from, self.delimiter))


class Reading:
    """An open source: iterate over its rows, ask how many of its bytes were read. A context manager."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._raw: BufferedReader = source.path.open("rb")
        unzipped = gzip.GzipFile(fileobj=self._raw) if is_gzip(source.path) else self._raw
        self._text = TextIOWrapper(cast(IO[bytes], unzipped), encoding="utf-8-sig", newline="")

    def __enter__(self) -> "Reading":
        return self

    def __exit__(self, *_: object) -> None:
        self._text.close()
        self._raw.close()

    def bytes_read(self) -> int:
        """Bytes of the file taken so far (compressed ones for gzip): for a progress bar."""
        return self._raw.tell() if not self._raw.closed else 0

    def __iter__(self) -> Iterator[Row]:
        """Rows in file order. Raises WrongUse when the file is not UTF-8 or lacks a mapped column."""
        try:
            if self._source.columns is None:
                yield from json_rows(self._text, self._source.id_from)
            else:
                yield from csv_rows(self._text, self._source.columns, self._source.id_from, self._source.delimiter)
        except (UnicodeDecodeError, EOFError, OSError, csv.Error) as error:
            raise WrongUse(f"{self._source.path} cannot be read: {error}", "save it as UTF-8 text") from error


def is_gzip(path: Path) -> bool:
    """Whether the file starts as gzip does; its name does not matter."""
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC


def json_rows(lines: Iterable[str], id_from: Sequence[str] = ()) -> Iterator[Row]:
    """Rows of JSON lines; blank lines count as rows but bring nothing."""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        try:
            item = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            yield Row(number, None, f"not JSON: {error}")
            continue
        if not isinstance(item, dict):
            yield Row(number, None, "not a JSON object")
            continue
        yield _with_id(number, item, text, [str(item.get(name, "")) for name in id_from])


def csv_rows(lines: Iterable[str], columns: ColumnMap, id_from: Sequence[str], delimiter: str) -> Iterator[Row]:
    """Rows of CSV with a header. Raises WrongUse when the header lacks a column that is asked for."""
    reader = csv.DictReader(lines, delimiter=delimiter)
    header = list(reader.fieldnames or ())
    absent = columns.missing(header) + [name for name in id_from if name not in header]
    if absent:
        raise WrongUse(f"the file has no column {', '.join(absent)}", f"its columns are {', '.join(header)}")
    for number, row in enumerate(reader, 1):
        try:
            item = columns.touchpoint(row)
        except ValueError as error:
            yield Row(number, None, str(error))
            continue
        cells = [row.get(column) or "" for column in header]
        yield _with_id(number, item, "\x1f".join(cells), [row.get(name) or "" for name in id_from])


def _with_id(number: int, item: dict[str, Any], text: str, chosen: list[str]) -> Row:
    if "id" not in item:
        parts = ["import-row-by-columns", *chosen] if chosen else ["import-row", text, str(number)]
        item["id"] = uuid_text(derived_id(*parts))
    return Row(number, item)
