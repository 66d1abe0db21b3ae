"""`raftar import`: from what was asked to an import with a progress bar and an exit code."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from services.cli.errors import DONE, PARTLY_REFUSED, WrongUse
from services.cli.house import House
from services.cli.importing.column_map import ColumnMap, column_map
from services.cli.importing.importer import Importer, Outcome
from services.cli.importing.progress import Bookmark
from services.cli.importing.rows import Source


@dataclass(frozen=True, slots=True)
class Asked:
    """The command's options, as given."""

    file: Path
    rules: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    map_file: Path | None = None
    id_from: tuple[str, ...] = ()
    delimiter: str = ","
    time_zone: str = "UTC"
    again: bool = False


def run(house: House, asked: Asked, out: Console, err: Console, as_json: bool) -> int:
    """Import, showing how far; returns the exit code. The summary goes to `out`, everything else to `err`."""
    source = source_of(asked)
    bookmark = Bookmark(house.data_dir, source, f"{house.access.ingest_url}|{house.access.workspace}")
    with house.ingest() as door, _bar(asked.file, err) as moved:
        outcome = Importer(door, source, bookmark, moved, asked.again).run()
    _tell(outcome, asked.file, out, err, as_json)
    return PARTLY_REFUSED if outcome.progress.refused else DONE


def source_of(asked: Asked) -> Source:
    """The file and how to read it. Raises WrongUse."""
    columns = _columns(asked)
    if columns is None and asked.delimiter != ",":
        raise WrongUse("--delimiter is for CSV, which needs --map", "raftar import --help shows an example")
    if len(asked.delimiter) != 1:
        raise WrongUse("--delimiter is one character", "for tabs: --delimiter $'\\t'")
    if columns is None and ".csv" in asked.file.suffixes:
        raise WrongUse(
            f"{asked.file.name} looks like CSV, but no column has a meaning yet",
            "add --map column=field for each column you need; raftar import --help shows an example",
        )
    return Source(asked.file, columns, asked.id_from, asked.delimiter)


def _columns(asked: Asked) -> ColumnMap | None:
    rules, constants = list(asked.rules), list(asked.constants)
    if asked.map_file:
        more_rules, more_constants = _from_file(asked.map_file)
        rules, constants = more_rules + rules, more_constants + constants
    if not rules:
        if constants:
            raise WrongUse("--set is for CSV, which needs --map too", "raftar import --help shows an example")
        return None
    try:
        zone = ZoneInfo(asked.time_zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise WrongUse(f"there is no time zone {asked.time_zone!r}", "write it like Asia/Tehran") from error
    return column_map(rules, constants, zone)


def _from_file(path: Path) -> tuple[list[str], list[str]]:
    """Rules and constants of a YAML file: `map: {column: field}` (or a list of fields), `set: {field: value}`."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        columns, constants = content.get("map", {}), content.get("set", {})
        rules = [
            f"{column}={field}"
            for column, fields in columns.items()
            for field in (fields if isinstance(fields, list) else [fields])
        ]
        return rules, [f"{field}={value}" for field, value in constants.items()]
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise WrongUse(f"{path} is not a map file: {error}", "it has `map:` and `set:`, each a YAML mapping") from error


@contextmanager
def _bar(file: Path, err: Console) -> Iterator[Callable[[int, Outcome], None]]:
    """A bar over the file's bytes, with rows, rate and the time left; silent when `err` is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TextColumn("{task.fields[rate]:,.0f} rows/s"),
        TimeRemainingColumn(compact=True),
    )
    with ProgressBar(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task(file.name, total=file.stat().st_size, rows=0, rate=0.0)
        before: list[int] = []  # rows of earlier runs, which say nothing about this run's rate

        def moved(bytes_read: int, outcome: Outcome) -> None:
            done = outcome.progress.accepted + outcome.progress.refused
            if not before:
                before.append(done)
            elapsed_seconds = bar.tasks[0].elapsed or 0.0
            rate = (done - before[0]) / elapsed_seconds if elapsed_seconds else 0.0
            bar.update(task, completed=bytes_read, rows=done, rate=rate)

        yield moved


def _tell(outcome: Outcome, file: Path, out: Console, err: Console, as_json: bool) -> None:
    progress = outcome.progress
    for row, reason in outcome.refusals:
        err.print(f"[yellow]row {row}:[/yellow] {escape(reason)}", highlight=False, soft_wrap=True)
    if 0 < len(outcome.refusals) < progress.refused:
        err.print(f"[yellow]... and so on: {progress.refused:,} rows were refused in all[/yellow]")
    if as_json:
        summary = {
            "import_id": progress.import_id,
            "accepted": progress.accepted,
            "refused": progress.refused,
            "already_done": outcome.already_done,
        }
        out.print(msgspec.json.encode(summary).decode(), soft_wrap=True, highlight=False, markup=False)
    elif outcome.already_done:
        out.print(
            f"{file.name} was imported before (import {progress.import_id}): {progress.accepted:,} touchpoints, "
            f"{progress.refused:,} refused. --again sends it once more.",
            soft_wrap=True,
        )
    else:
        out.print(
            f"{progress.accepted:,} touchpoints of {file.name} are in, {progress.refused:,} refused "
            f"(import {progress.import_id}, finished).",
            soft_wrap=True,
        )
