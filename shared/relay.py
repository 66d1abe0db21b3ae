"""Passing the outbox on to the log, and saying how far that covers (frontier and watermark of design §4).

One `Relay` per worker: it reads rows and frontiers in one snapshot, appends the rows in chunks, deletes what was
acknowledged under the claims it had before, and, every pulse, moves the frontiers and states the watermark.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import structlog

from shared.checkpoint import NEVER, Claim
from shared.clock import Clock
from shared.codec import encode
from shared.errors import Fenced, OutOfRange, Retryable
from shared.events import Statement, WatermarkStated
from shared.lane import Lane, Tally, named
from shared.log.port import Log, Outgoing
from shared.outbox import OutboxSnapshot, Pending, chunks
from shared.topics import PROFILE_CHANGES, WATERMARKS

PULSE_SECONDS = 0.25
CLOCK_CHECK_SECONDS = 5.0
OUTBOX_ROWS_MAX = 4_000
OUTBOX_BYTES = 16 << 20
"""About so much is relayed in a pass: a change carries its customer's state, of some it is a hundred kilobytes."""
ROWS_UNSEEN, GROWTH = 100, 4
"""So many rows are read of which nobody knows how large they are, and so many times more than the pass before had: an
outbox that filled while the log was away may hold gigabytes."""
LEVEL_SECONDS = 0.1

_log = structlog.get_logger()


class RelayStore(Protocol):
    """What relaying asks of a folding service's database."""

    async def hold(self, moves: Sequence[tuple[Claim, Claim]]) -> list[Claim]:
        """Move several checkpoints at once, with nothing else in the transaction. Raises Fenced, then none moved."""

    async def outbox(self, partitions: Sequence[int], limit: int) -> OutboxSnapshot:
        """Rows bound for `partitions`, every partition's frontier and its owner's epoch, read in ONE snapshot.

        Frontiers read later than the rows would promise changes that are not relayed yet.
        """

    async def relayed(self, claims: Sequence[Claim], seqs: Sequence[int], hurried: bool) -> None:
        """Delete acknowledged rows of these claims' partitions. Raises Fenced, then none was deleted.

        Not `hurried`: it may wait a moment for a step whose commit it can share.
        """


@dataclass(frozen=True, slots=True)
class Relaying:
    """Settings of a relay. `partitions`: length of the frontier vector · `states_watermarks`: profiles only."""

    partitions: int
    states_watermarks: bool
    allowance_ms: int


async def append_chunk(log: Log, chunk: Sequence[Pending]) -> dict[tuple[str, int], int]:
    """Append one chunk; for each (topic, partition) the position behind its last record. Raises what append does."""
    ends: dict[tuple[str, int], int] = {}
    by_topic = sorted(chunk, key=lambda row: (row.topic, row.seq))
    for topic, group in groupby(by_topic, key=lambda row: row.topic):
        rows = list(group)
        positions = await log.append(topic, [Outgoing(row.partition, row.value, row.key) for row in rows])
        for row, position in zip(rows, positions, strict=True):
            place = topic, row.partition
            ends[place] = max(ends.get(place, 0), position + 1)
    return ends


def statement_of(ends: Mapping[int, int], frontiers: Mapping[int, int], partitions: int) -> WatermarkStated:
    """What may be said once every row of a snapshot is acknowledged.

    `ends`: profile-changes partition → position behind everything relayed to it · `frontiers`: of the same snapshot.
    """
    vector = tuple(frontiers.get(partition, NEVER) for partition in range(partitions))
    return WatermarkStated(tuple(Statement(q, end) for q, end in sorted(ends.items())), vector)


class Relay:
    """Relays for the lanes of one worker. `run()` until cancelled; `wake()` when rows were written."""

    def __init__(
        self,
        log: Log,
        store: RelayStore,
        clock: Clock,
        relaying: Relaying,
        topic: str,
        lanes: Mapping[int, Lane],
        tally: Tally,
    ) -> None:
        self._log, self._store, self._clock, self._settings = log, store, clock, relaying
        self._topic, self._lanes, self._tally = topic, lanes, tally
        self._wanted = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._rows_max = ROWS_UNSEEN
        self._level = asyncio.Event()
        self._level.set()
        self._agreed_offset_ms: float | None = None  # of our clock from its own monotonic one, when it last was right
        self._next_clock_check = 0.0

    def wake(self) -> None:
        """There is something in the outbox."""
        self._wanted.set()

    async def level(self) -> None:
        """Return at once, or when the outbox, in which the last pass left rows, was emptied; after a moment anyway.

        Whoever folds waits here first: else a busy fold leaves the relay too little to keep up. Not for long: in a wave
        of due times new facts have their turn too.
        """
        if not self._level.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LEVEL_SECONDS):
                    await self._level.wait()

    async def passed(self) -> None:
        """Return when a pass that begins after the call is over, whether it got through or not."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self.wake()
        await waiting

    async def run(self) -> None:
        """Relay as soon as woken, pulse every 250 ms; a failure pauses and is tried again from the outbox."""
        next_pulse = self._clock.monotonic()
        waiting: list[asyncio.Future[None]] = []
        try:
            while True:
                # Not `wait_for`: before Python 3.12 it loses a cancelling that meets the event, and the relay lives on.
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, next_pulse - self._clock.monotonic())):
                        await self._wanted.wait()
                self._wanted.clear()
                waiting, self._waiting = self._waiting, []
                pulse = self._clock.monotonic() >= next_pulse
                await self._guarded(pulse)
                _released(waiting)
                if pulse:
                    self._tally.pulses += 1
                    next_pulse = self._clock.monotonic() + PULSE_SECONDS
        finally:
            self._level.set()
            _released([*waiting, *self._waiting])

    async def _guarded(self, pulse: bool) -> None:
        try:
            await self._pass(pulse)
        except Exception as error:
            self._level.set()
            await self._recover(error)

    async def _recover(self, error: Exception) -> None:
        if isinstance(error, Fenced):
            _log.info("relay refused", why=str(error))
            await self._find_refused()
            return
        self._wanted.set()
        if isinstance(error, Retryable):
            _log.warning("relay waits for the log", why=str(error))
            await asyncio.sleep(error.retry_after_seconds)
        else:
            self._tally.failures += 1
            _log.warning("relay paused", error=named(error))
            await asyncio.sleep(0.5)

    async def _pass(self, pulse: bool) -> None:
        lanes = [lane for _, lane in sorted(self._lanes.items()) if lane.claim is not None]
        if not lanes:
            self._level.set()
            return
        claims = {lane.partition: lane.held() for lane in lanes}
        states = self._settings.states_watermarks and pulse
        if states:
            await self._move_frontiers(lanes)
        snapshot = await self._store.outbox([lane.partition for lane in lanes], self._rows_max)
        self._rows_max = rows_after(snapshot.rows, OUTBOX_BYTES)
        if not snapshot.complete:
            self._level.clear()
        if snapshot.rows:
            await self._relay(snapshot.rows, claims)
        if not snapshot.complete:
            self._wanted.set()
            return
        self._level.set()
        if states:
            ends = {lane.partition: lane.relayed_to for lane in lanes if _is_owner(lane, snapshot)}
            await self._state(statement_of(ends, snapshot.frontiers, self._settings.partitions))

    async def _relay(self, rows: Sequence[Pending], claims: Mapping[int, Claim]) -> None:
        """Append, then delete what was acknowledged under the claims held before the rows were read.

        No lane waits meanwhile. An owner who takes over after the deletion looks for the log's end later still, and
        so finds behind it what was appended here; one who took over before it has the deletion refused.
        """
        acknowledged: list[Pending] = []
        try:
            for chunk in [rows] if self._log.appends_whole else chunks(rows):
                for (topic, partition), end in (await append_chunk(self._log, chunk)).items():
                    if topic == PROFILE_CHANGES and partition in self._lanes:
                        self._lanes[partition].appended_to(end)
                acknowledged += chunk
        except Retryable:
            await self._delete(acknowledged, claims)
            raise
        await self._delete(acknowledged, claims)

    async def _delete(self, rows: Sequence[Pending], claims: Mapping[int, Claim]) -> None:
        if rows:
            mine = [claims[partition] for partition in sorted({row.partition for row in rows})]
            steps_wait = not self._level.is_set()
            await self._store.relayed(mine, [row.seq for row in rows], hurried=steps_wait)
            self._tally.relayed_rows += len(rows)

    async def _move_frontiers(self, lanes: Sequence[Lane]) -> None:
        """Set T of every lane that has read to the end asked for after our clock was read."""
        before = self._clock.now_ms()
        if not self._is_right(before):
            return
        bounds = await self._log.bounds(self._topic)
        async with AsyncExitStack() as locks:
            moves: list[tuple[Lane, Claim, Claim]] = []
            for lane in lanes:
                if lane.lock.locked():
                    continue  # it is folding: its next pulse will do
                await locks.enter_async_context(lane.lock)
                if lane.claim is None:
                    continue
                if lane.probe is None or lane.claim.position >= bounds[lane.partition].end:
                    lane.probe = before, bounds[lane.partition].end
                at, end = lane.probe
                if lane.claim.position >= end:
                    lane.probe = None
                    frontier = (
                        at - 1 - self._settings.allowance_ms
                    )  # a later append may still bear our very millisecond
                    if frontier > lane.claim.frontier:
                        moves.append((lane, lane.claim, replace(lane.claim, frontier=frontier)))
            claims = await self._store.hold([(old, new) for _, old, new in moves]) if moves else []
            for (lane, _, _), claim in zip(moves, claims, strict=True):
                lane.claim = claim

    async def _find_refused(self) -> None:
        """A transaction over several partitions was refused: find out which ones are not ours any more."""
        for lane in list(self._lanes.values()):
            async with lane.lock:
                if lane.claim is None:
                    continue
                try:
                    lane.claim = (await self._store.hold([(lane.claim, lane.claim)]))[0]
                except Fenced:
                    lane.claim = None
                    self._tally.refused += 1

    async def _state(self, statement: WatermarkStated) -> None:
        before = self._clock.now_ms()
        position = (await self._log.append(WATERMARKS, [Outgoing(0, encode(statement))]))[0]
        if self._settings.allowance_ms and self._clock.monotonic() >= self._next_clock_check:
            self._next_clock_check = self._clock.monotonic() + CLOCK_CHECK_SECONDS
            after = self._clock.now_ms()
            await self._compare_clocks(position, before, after, after - self._monotonic_ms())

    async def _compare_clocks(self, position: int, before: int, after: int, offset_ms: float) -> None:
        """Our clock against the log's stamp on our own append: apart by more than the allowance, publish no T.

        An append that took long, or while which our clock jumped, proves nothing.
        """
        try:
            batch = await self._log.read(WATERMARKS, 0, position, records_max=1, wait_seconds=1.0)
        except OutOfRange:
            return  # retention was quicker; the next statement will do
        finally:
            await self._log.release(WATERMARKS, 0)
        if not batch.records:
            return
        stamp, allowance = batch.records[0].recorded_at, self._settings.allowance_ms
        if not before - allowance <= stamp <= after + allowance:
            self._agreed_offset_ms = None
            self._tally.clock_off += 1
            _log.error("our clock differs from the log's stamps: no frontier is published", ours=after, stamp=stamp)
        elif before <= after <= stamp + allowance:
            self._agreed_offset_ms = offset_ms
        else:
            self._next_clock_check = 0.0

    def _is_right(self, now_ms: int) -> bool:
        """Whether our clock, read just now, goes as when it last agreed with the log; after a jump it is compared soon.

        Without an allowance the log is stamped by this machine's own clock.
        """
        allowance = self._settings.allowance_ms
        if not allowance:
            return True
        if self._agreed_offset_ms is None:
            return False
        if abs(now_ms - self._monotonic_ms() - self._agreed_offset_ms) <= allowance:
            return True
        self._agreed_offset_ms, self._next_clock_check = None, 0.0
        return False

    def _monotonic_ms(self) -> float:
        return self._clock.monotonic() * 1000


def rows_after(rows: Sequence[Pending], size: int) -> int:
    """How many rows to read after a pass that had these: about `size` bytes of rows like them, and not many more than
    these. 1..OUTBOX_ROWS_MAX.
    """
    more = min(OUTBOX_ROWS_MAX, max(ROWS_UNSEEN, GROWTH * len(rows)))
    total = sum(len(row.value) for row in rows)
    return max(1, min(more, size * len(rows) // total)) if total else more


def _released(waiting: Sequence[asyncio.Future[None]]) -> None:
    for one in waiting:
        if not one.done():
            one.set_result(None)


def _is_owner(lane: Lane, snapshot: OutboxSnapshot) -> bool:
    """Whether the lane owned its partition when the snapshot was taken.

    What an owner since then has relayed is not in the rows, and lies behind the end this lane knows of.
    """
    return lane.claim is not None and snapshot.epochs.get(lane.partition) == lane.claim.epoch
