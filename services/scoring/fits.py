"""Fitting a workspace's model: asked for by a person or by the schedule, in a process of its own, one run at a time.

What is published is a version like any other: it takes effect a few seconds ahead and raises nothing about the past.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import msgspec
import structlog

from services.scoring.acting import Publishing
from services.scoring.domain.definitions import FIGURES
from services.scoring.fit_order import FitAnswer, FitOrder
from services.scoring.fit_runs import (
    DONE,
    FAILED,
    FITTING,
    LOOKED,
    PUBLISHED,
    PUBLISHING,
    READING,
    REFUSED,
    RUNNING,
    UNCHANGED,
    WAITING,
    FitRuns,
    Report,
    Run,
)
from services.scoring.rulebook import Rulebook
from shared.clock import Clock
from shared.definitions import DefinitionsFeed
from shared.ending import ended
from shared.errors import Conflict, RaftarError, Retryable
from shared.events import ImportClosed, ImportStarted
from shared.lane import named

LOOK_SECONDS = 30.0
BEAT_SECONDS = 1.0
HOUR_MS = 3_600_000
RETRY_HOURS_MAX = 1.0
"""After a failure the schedule comes back sooner than usual."""
LINE_BYTES_MAX = 1 << 20

_log = structlog.get_logger("fits")


class Superseded(Conflict):
    """The run's place was taken, or its rules were replaced: what it found is of no use."""


@dataclass(slots=True)
class FitTally:
    """What is counted of fits."""

    published: int = 0
    unchanged: int = 0
    refused: int = 0
    failed: int = 0
    postponed: int = 0
    running: int = 0
    seconds: float = 0.0
    customers: int = 0


class Imports:
    """The history imports under way, as `definitions` says. Make it before the feed is started."""

    def __init__(self, feed: DefinitionsFeed) -> None:
        self._open: set[tuple[str, str]] = set()
        feed.on(ImportStarted, lambda fact: self._open.add((fact.workspace, fact.import_id)))
        feed.on(ImportClosed, lambda fact: self._open.discard((fact.workspace, fact.import_id)))

    def under_way(self, workspace: str) -> bool:
        """Whether one of the workspace is not finished."""
        return any(name == workspace for name, _ in self._open)


@dataclass(frozen=True, slots=True)
class FitTerms:
    """What fits are done under. `refit_hours` 0: only when asked · `change_min`: see `refitting.Figures.change`."""

    database_url: str
    data_dir: str
    partitions: int
    refit_hours: float
    change_min: float
    customers_max: int


@dataclass(slots=True)
class Fits:
    """Runs fits. `known_until`: everything up to then is decided on (epoch ms)."""

    terms: FitTerms
    runs: FitRuns
    clock: Clock
    rulebook: Rulebook
    publishing: Publishing
    imports: Imports
    known_until: Callable[[], int]
    tally: FitTally = field(default_factory=FitTally)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Follow the schedule until cancelled; then no process of ours is left."""
        try:
            while True:
                for workspace in self.rulebook.workspaces():
                    try:
                        await self.look(workspace)
                    except Exception as error:
                        _log.warning("the schedule of fits stumbled", workspace=workspace, error=named(error))
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await ended(self._tasks)

    async def look(self, workspace: str) -> Run | None:
        """Begin a run when the schedule says so; the first time counts from when the workspace was first seen."""
        now = self.clock.now_ms()
        if not self.terms.refit_hours:
            return None
        last = await self.runs.find(workspace)
        if last is None:
            await self.runs.note(Run(workspace, b"", WAITING, DONE, 0, now, now))
            return None
        hours = min(self.terms.refit_hours, RETRY_HOURS_MAX) if last.state == FAILED else self.terms.refit_hours
        if last.is_alive(now) or now - last.beat_at < hours * HOUR_MS:
            return None
        if await self._is_importing(workspace):
            self.tally.postponed += 1
            return None
        return await self._begin(workspace, publish=True, asked=False)

    async def ask(self, workspace: str, publish: bool) -> Run:
        """Begin a run now. `publish` False: only look. Raises Conflict while one runs, or an import is under way."""
        self.rulebook.rules(workspace)
        if await self._is_importing(workspace):
            raise Conflict("a history import is under way; fit when it is finished")
        run = await self._begin(workspace, publish=publish, asked=True)
        if run is None:
            raise Conflict("a fit is under way already; GET /v1/models shows how far it is")
        return run

    async def _is_importing(self, workspace: str) -> bool:
        return self.imports.under_way(workspace) or await self.runs.is_held(workspace)

    async def _begin(self, workspace: str, publish: bool, asked: bool) -> Run | None:
        now = self.clock.now_ms()
        run = Run(workspace, self.clock.new_id(), RUNNING, READING, 0, now, now)
        if not await self.runs.claim(run):
            return None
        task = asyncio.create_task(self._carried_out(run, publish, asked), name=f"fit of {workspace}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    async def _carried_out(self, run: Run, publish: bool, asked: bool) -> None:
        """Fit, publish, and write down what came of it, whatever it was."""
        started = self.clock.monotonic()
        self.tally.running += 1
        try:
            ended = await self._fitted(run, publish, asked)
            await self._said(ended.moved(phase=DONE))
        except Exception as error:
            self.tally.failed += 1
            reason = str(error) if isinstance(error, RaftarError) else named(error)
            _log.warning("a fit failed", workspace=run.workspace, why=reason)
            try:
                await self._said(run.moved(state=FAILED, phase=DONE, report=Report(reason)))
            except Exception as second:  # the row goes stale, and the schedule takes it up again
                _log.warning("a fit's end cannot be written", workspace=run.workspace, error=named(second))
        finally:
            self.tally.running -= 1
            self.tally.seconds = self.clock.monotonic() - started

    async def _fitted(self, run: Run, publish: bool, asked: bool) -> Run:
        """The run at its end."""
        order = self._order(run.workspace)
        answer, last_beat = FitAnswer(0), asyncio.get_running_loop().time()
        async for answer in answers(order):
            if answer.failed:
                raise Retryable(answer.failed)
            phase = FITTING if answer.read_all else READING
            if asyncio.get_running_loop().time() - last_beat >= BEAT_SECONDS or phase != run.phase:
                last_beat = asyncio.get_running_loop().time()
                run = await self._said(run.moved(phase=phase, customers=answer.customers))
        run = run.moved(customers=answer.customers)
        self.tally.customers = answer.customers
        model = answer.model
        if model is None:
            self.tally.refused += 1
            return run.moved(state=REFUSED, report=Report(answer.refused))
        figures = model[FIGURES]
        if not publish:
            return run.moved(state=LOOKED, report=Report("only looked at", figures))
        if not (answer.differs or (asked and _plain(model) != _plain(order.model))):
            self.tally.unchanged += 1
            return run.moved(state=UNCHANGED, report=Report("differs too little from the model in force", figures))
        run = await self._said(run.moved(phase=PUBLISHING))
        if self._order(run.workspace).model != order.model:
            raise Superseded("another version was published meanwhile; fit again")
        edition = await self.publishing.publish(run.workspace, None, model, None)
        self.tally.published += 1
        return run.moved(state=PUBLISHED, version=edition.fact.version, report=Report("", figures))

    async def _said(self, run: Run) -> Run:
        run = run.moved(beat_at=self.clock.now_ms())
        if not await self.runs.beat(run):
            raise Superseded("another run took this one's place")
        return run

    def _order(self, workspace: str) -> FitOrder:
        pack, terms = self.rulebook.definitions(workspace)[-1].pack, self.terms
        return FitOrder(
            database_url=terms.database_url,
            data_dir=terms.data_dir,
            partitions=terms.partitions,
            workspace=workspace,
            zone=self.rulebook.zone(workspace).key,
            trust_min=pack.purchase_trust_min,
            day_ms=pack.day_ms,
            at=self.known_until(),
            model=self.publishing.newest(workspace).model,
            change_min=terms.change_min,
            customers_max=terms.customers_max,
        )


async def answers(order: FitOrder) -> AsyncIterator[FitAnswer]:
    """What the process that carries out `order` says; ends with the process. Raises Retryable when it dies."""
    command = (sys.executable, "-m", "services.scoring.fit_process")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, limit=LINE_BYTES_MAX
    )
    assert process.stdin is not None  # noqa: S101 (a pipe was asked for)
    assert process.stdout is not None  # noqa: S101
    try:
        process.stdin.write(msgspec.json.encode(order))
        await process.stdin.drain()
        process.stdin.close()
        async for line in process.stdout:
            yield msgspec.json.decode(line, type=FitAnswer)
        if await process.wait():
            raise Retryable(f"the fitting process ended with {process.returncode}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _plain(model: dict[str, object]) -> dict[str, object]:
    """What decides, without the figures."""
    return {name: value for name, value in model.items() if name != FIGURES}
