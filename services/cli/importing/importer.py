"""Sends a file's rows as history, in order, in batches; remembers each answered batch; ends with `import.finished`.

Every batch is sent until it is answered for good, so after any interruption at most one batch is sent twice, and its
rows carry the ids they had before.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from services.cli.importing.progress import Bookmark, Progress
from services.cli.importing.rows import Reading, Row, Source
from services.cli.rest import Rest, path_part

BATCH_ROWS_MAX = 500
BATCH_BYTES_MAX = 2 << 20
"""Half of the door's default body limit."""
PATIENCE_SECONDS = 600.0
REFUSALS_SHOWN_MAX = 10
NOT_OPEN = "import_not_open"
SETTLING_SECONDS = 1.0
"""A door reads of a new import from the log: another door than the one that began it may be this much behind."""


@dataclass(slots=True)
class Outcome:
    """What came of it: counts over all runs of this import, and the first refusals of this run as (row, reason)."""

    progress: Progress
    already_done: bool = False
    refusals: list[tuple[int, str]] = field(default_factory=list)

    def refuse(self, row: int, reason: str) -> None:
        """Count one refused row; keep its reason while there is room."""
        self.progress.refused += 1
        if len(self.refusals) < REFUSALS_SHOWN_MAX:
            self.refusals.append((row, reason))


class Importer:
    """One import. `moved(bytes_read, outcome)` is called at the start and after every answered batch."""

    def __init__(
        self, door: Rest, source: Source, bookmark: Bookmark, moved: Callable[[int, Outcome], None], again: bool = False
    ) -> None:
        self._door, self._source, self._bookmark, self._moved = door, source, bookmark, moved
        self._again = again

    def run(self) -> Outcome:
        """Send what is not yet sent. Raises Refused, Unreachable (after PATIENCE_SECONDS), WrongUse.

        A finished import is left alone unless `again`; then all rows are sent once more and deduplicated there.
        """
        progress = self._bookmark.load()
        if progress.finished and not self._again:
            return Outcome(progress, already_done=True)
        if progress.finished:
            progress = Progress(file=progress.file)
        outcome = Outcome(progress)
        if not progress.import_id:
            self._begin(progress)
        self._moved(0, outcome)
        with Reading(self._source) as reading:
            for batch in batches(row for row in reading if row.number > progress.rows_done):
                self._send(batch, outcome)
                self._moved(reading.bytes_read(), outcome)
        self._door.post(f"/v1/imports/{path_part(progress.import_id)}/finish", patience_seconds=PATIENCE_SECONDS)
        progress.finished = True
        self._bookmark.save(progress)
        return outcome

    def _begin(self, progress: Progress) -> None:
        answer = self._door.post("/v1/imports", patience_seconds=PATIENCE_SECONDS)
        progress.import_id = str(answer["import_id"])
        self._bookmark.save(progress)

    def _send(self, batch: list[Row], outcome: Outcome) -> None:
        progress = outcome.progress
        good = [row for row in batch if row.item is not None]
        if good:
            for row, trouble in zip(good, self._answers(good, progress), strict=True):
                if trouble:
                    outcome.refuse(row.number, trouble)
                else:
                    progress.accepted += 1
        for row in batch:
            if row.item is None:
                outcome.refuse(row.number, row.trouble)
        progress.rows_done = batch[-1].number
        self._bookmark.save(progress)

    def _answers(self, rows: list[Row], progress: Progress) -> list[str]:
        """For each row "" (accepted) or why it was refused.

        A door that does not know the import may be a moment behind: asked once more. An import that was closed
        meanwhile (an hour without a row) is begun anew under another id; what it had brought stays.
        """
        results = self._post(rows, progress.import_id)
        if not_open(results):
            self._door.pause(SETTLING_SECONDS)
            results = self._post(rows, progress.import_id)
        if not_open(results):
            self._begin(progress)
            results = self._post(rows, progress.import_id)
        return [trouble_of(result) for result in results]

    def _post(self, rows: list[Row], import_id: str) -> list[dict[str, Any]]:
        body = [{**(row.item or {}), "import_id": import_id} for row in rows]
        answer = self._door.post("/v1/touchpoints", body, patience_seconds=PATIENCE_SECONDS)
        return list(answer["results"])


def batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Rows in order, at most BATCH_ROWS_MAX and about BATCH_BYTES_MAX together."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        row_bytes = len(msgspec.json.encode(row.item))
        if batch and (len(batch) == BATCH_ROWS_MAX or size + row_bytes > BATCH_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row_bytes
    if batch:
        yield batch


def not_open(results: list[dict[str, Any]]) -> bool:
    """Whether the door refused a row because its import is not open there."""
    return any(result.get("code") == NOT_OPEN for result in results)


def trouble_of(result: dict[str, Any]) -> str:
    """The reason of one refused item, with its field; "" for an accepted one."""
    if result.get("status") == "accepted":
        return ""
    where = str(result.get("field") or "").partition("].")[2]  # without the place in the batch, which says nothing here
    reason = str(result.get("reason") or result.get("code") or "refused")
    return f"{where}: {reason}" if where else reason
