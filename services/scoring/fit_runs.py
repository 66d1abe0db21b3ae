"""Whose turn it is to fit a workspace's model, and what came of the last run: one row a workspace, fenced by run."""

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from shared.database import Database, execute, fetch

WAITING, RUNNING = "waiting", "running"
PUBLISHED, UNCHANGED, LOOKED, REFUSED, FAILED = "published", "unchanged", "looked", "refused", "failed"
READING, FITTING, PUBLISHING, DONE = "reading", "fitting", "publishing", "done"
STALE_MS = 60_000
"""A run without a sign of life for so long is over: its worker died."""


class Report(msgspec.Struct, frozen=True):
    """What came of a run. `reason`: why nothing was published, "" = it was."""

    reason: str = ""
    figures: dict[str, Any] | None = None


NOTHING_SAID = Report()


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `run`: its id · `beat_at`: its last sign of life, epoch ms · `version`: published, 0 = none."""

    workspace: str
    run: bytes
    state: str
    phase: str
    customers: int
    started_at: int
    beat_at: int
    version: int = 0
    report: Report = NOTHING_SAID

    def moved(self, **changes: Any) -> "Run":
        """The run with other fields."""
        return replace(self, **changes)

    def is_alive(self, now: int) -> bool:
        """Whether it is under way at `now` (epoch ms)."""
        return self.state == RUNNING and now - self.beat_at < STALE_MS


_COLUMNS = "workspace, run, state, phase, customers, started_at, beat_at, version, report"
_INSERT = f"INSERT INTO model_fit ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (workspace)"
_RENEWED = ("run", "state", "phase", "customers", "started_at", "beat_at", "version", "report")
_CLAIM = (
    f"{_INSERT} DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _RENEWED)} "
    f"WHERE model_fit.state <> '{RUNNING}' OR model_fit.beat_at <= $10 RETURNING run"
)
_BEAT = (
    "UPDATE model_fit SET state = $3, phase = $4, customers = $5, beat_at = $6, version = $7, report = $8 "
    "WHERE workspace = $1 AND run = $2"
)

_encode = msgspec.json.encode
_report = msgspec.json.Decoder(Report).decode


class FitRuns:
    """The table `model_fit`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, workspace: str) -> Run | None:
        """The last run; None where there was none yet."""
        async with self._database.snapshot() as connection:
            rows = await fetch(connection, f"SELECT {_COLUMNS} FROM model_fit WHERE workspace = $1", workspace)
        return _run_of(rows[0]) if rows else None

    async def note(self, run: Run) -> None:
        """Write a first row, from which on the schedule counts; nothing where there is one."""
        async with self._database.transaction() as connection:
            await execute(connection, f"{_INSERT} DO NOTHING", *_values(run))

    async def claim(self, run: Run) -> bool:
        """Begin a run; False while another one is under way."""
        async with self._database.transaction() as connection:
            return bool(await fetch(connection, _CLAIM, *_values(run), run.started_at - STALE_MS))

    async def beat(self, run: Run) -> bool:
        """Write how far it is; False when another run took its place."""
        values = (run.state, run.phase, run.customers, run.beat_at, run.version, _encode(run.report))
        async with self._database.transaction() as connection:
            return bool(await execute(connection, _BEAT, run.workspace, run.run, *values))

    async def is_held(self, workspace: str) -> bool:
        """Whether an unfinished import holds any customer of the workspace."""
        statement = "SELECT 1 FROM decision WHERE held > 0 AND workspace = $1 LIMIT 1"
        async with self._database.snapshot() as connection:
            return bool(await fetch(connection, statement, workspace))


def _values(run: Run) -> tuple[Any, ...]:
    return (
        run.workspace, run.run, run.state, run.phase, run.customers, run.started_at, run.beat_at, run.version,
        _encode(run.report),
    )  # fmt: skip


def _run_of(row: Any) -> Run:
    return Run(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], _report(row[8]))
