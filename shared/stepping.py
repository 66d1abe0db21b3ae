"""Steps: what the lanes of one worker have read is folded together, in one transaction.

A lane brings its batch and waits. With a transaction for each of sixteen partitions, a fact waited for fifteen steps of
others, and each step paid for its own statements, turn and commit.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from shared.checkpoint import Claim
from shared.clock import Clock
from shared.database import Away
from shared.lane import Portion
from shared.log.port import Batch

BATCH_RECORDS_MAX = 500
STEP_BYTES_MAX = 1 << 20
"""As much as one read brings: with more, whoever asks something meanwhile would wait too long."""
SETTLE_TURNS = 8
"""So many turns of the event loop it takes a lane at most from hearing of its step to bringing what there is."""
STEP_SECONDS_MAX = 2.0
"""A step that takes longer is made smaller: it must stay far below the database's time-outs, and the wait for customers
who are locked counts. One below half of it is made larger: where workers wait for each other's customers, a small step
waits as long as a large one."""


class Pace(NamedTuple):
    """How a topic is folded: so many records a step at most, and after each so long a rest, in which more comes."""

    records_max: int
    rest_seconds: float


AT_ONCE = Pace(BATCH_RECORDS_MAX, 0.0)
"""What is reacted to."""
IN_PASSING = Pace(50, 0.2)
"""What is only shown: what came in a while together, and never long in the way of what is reacted to."""


class Turns(Protocol):
    """What stepping asks of a database."""

    @property
    def steps_at_once(self) -> int:
        """How many steps are worth having open at once: one, where one writes after another."""

    def turn(self) -> AbstractAsyncContextManager[None]:
        """The turn to write, where one writes after another (`Database.turn`)."""


class Folding(Protocol):
    """What folds batches of several partitions in one transaction."""

    async def fold_together(self, portions: Sequence[Portion]) -> list[Claim]:
        """The moved claims, in the order of `portions`, which are of different partitions.

        Whatever it raises, none has moved then: Away for all of them, anything else perhaps for one alone.
        """


@dataclass(slots=True, eq=False)
class _Brought:
    portion: Portion
    outcome: asyncio.Future[Claim]
    size: int  # bytes

    @property
    def records(self) -> int:
        return len(self.portion.batch.records)


class Stepping:
    """Folds what lanes bring. `run()` until cancelled, after the lanes. `records_max`: of a step, and of a batch."""

    def __init__(self, folding: Folding, turns: Turns, clock: Clock, pace: Pace = AT_ONCE) -> None:
        self.records_max = self._records_most = pace.records_max
        self._folding, self._turns, self._clock = folding, turns, clock
        self._brought: deque[_Brought] = deque()
        self._some = asyncio.Event()

    async def fold(self, claim: Claim, batch: Batch) -> Claim:
        """The moved claim, when the step this batch went into is over. Raises what folding it alone does.

        Whoever is cancelled goes when that step is over: then nobody works on its partition any more.
        """
        size = sum(len(record.value) for record in batch.records)
        one = _Brought(Portion(claim, batch), asyncio.get_running_loop().create_future(), size)
        self._brought.append(one)
        self._some.set()
        try:
            await asyncio.wait((one.outcome,))
        except asyncio.CancelledError:
            if one in self._brought:
                self._brought.remove(one)
            else:
                await asyncio.wait((one.outcome,))
                one.outcome.exception()
            raise
        return one.outcome.result()

    async def run(self) -> None:
        """Fold until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._turns.steps_at_once):
                tasks.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            await self._settled()
            taken: Sequence[_Brought] = ()
            try:
                async with self._turns.turn():
                    taken = self._taken()
                    alone = await self._fold(taken) if taken else ()
                for one in alone:
                    await self._fold([one])
            finally:
                for one in taken:
                    one.outcome.cancel()  # of no effect on what is done: all of them, unless this was cut short

    async def _settled(self) -> None:
        """Whoever heard of the last step in this moment reads on, and is in the next: else lanes take turns at being
        late.
        """
        for _ in range(SETTLE_TURNS):
            await asyncio.sleep(0)

    def _taken(self) -> list[_Brought]:
        """In the order of their partitions: the one order in which everybody locks them."""
        taken: list[_Brought] = []
        records, size = self.records_max, STEP_BYTES_MAX
        while self._brought and (not taken or (self._brought[0].records <= records and self._brought[0].size <= size)):
            taken.append(self._brought.popleft())
            records, size = records - taken[-1].records, size - taken[-1].size
        if not self._brought:
            self._some.clear()
        return sorted(taken, key=lambda one: one.portion.claim.partition)

    async def _fold(self, taken: Sequence[_Brought]) -> Sequence[_Brought]:
        """Fold together; returns who must be folded alone, so that each hears of its own failure and no other's."""
        began = self._clock.monotonic()
        try:
            claims = await self._folding.fold_together([one.portion for one in taken])
        except Away as error:  # for everybody; or it was too much for its time-outs
            self._failed()
            for one in taken:
                one.outcome.set_exception(error)
            return ()
        except Exception as error:
            return _refused(taken, error)
        self._folded(sum(one.records for one in taken), self._clock.monotonic() - began)
        for one, claim in zip(taken, claims, strict=True):
            one.outcome.set_result(claim)
        return ()

    def _failed(self) -> None:
        """A step was given up by the database: try less at once."""
        self.records_max = max(1, self.records_max // 4)

    def _folded(self, records: int, seconds: float) -> None:
        """A step of so many records got through: less at once where it was slow, more where there was time for more."""
        if seconds > STEP_SECONDS_MAX:
            self.records_max = max(1, min(self.records_max, records) // 2)
        elif seconds < STEP_SECONDS_MAX / 2:
            self.records_max = min(self._records_most, self.records_max * 2)


def _refused(taken: Sequence[_Brought], error: Exception) -> Sequence[_Brought]:
    if len(taken) > 1:
        return taken
    taken[0].outcome.set_exception(error)
    return ()
