"""The fit in a process of its own, so that folds and answers are not delayed by it and its memory is given back.

`python -m services.scoring.fit_process` reads one `FitOrder` from standard input, reads the decisions of one workspace
in bounded pages, and writes lines of JSON: how many customers were read, and at last the `FitAnswer`. It only reads.
"""

import asyncio
import os
import sys
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from zlib import crc32
from zoneinfo import ZoneInfo

import msgspec

from services.scoring.domain.fitting import Ledger, Unfitted, ledger_of
from services.scoring.domain.refitting import refit
from services.scoring.domain.snapshot import buying, snapshot_of
from services.scoring.fit_order import FitAnswer, FitOrder
from services.scoring.store import workspace_states
from shared.database import Database, open_database
from shared.lane import named
from shared.profile import decode, narrowed

PAGE = 1_000
NICENESS = 10
"""Whoever folds and answers goes first."""


class Sample:
    """Orders of at most `customers_max` customers, chosen by their ids alone: any shop's share is drawn evenly."""

    def __init__(self, customers_max: int) -> None:
        self.read = 0
        self._mask, self._customers_max = 0, customers_max
        self._orders: dict[bytes, tuple[array[int], int]] = {}

    def add(self, customer: bytes, order_times: tuple[int, ...], last_at: int) -> None:
        """Keep a customer's orders; when they become too many, half of all customers are let go."""
        self.read += 1
        if crc32(customer) & self._mask:
            return
        self._orders[customer] = array("q", order_times), last_at
        while len(self._orders) > self._customers_max:
            self._mask = self._mask << 1 | 1
            self._orders = {one: kept for one, kept in self._orders.items() if not crc32(one) & self._mask}

    @property
    def share(self) -> float:
        """How many of the customers read are kept."""
        return len(self._orders) / self.read if self.read else 1.0

    def ledger(self) -> Ledger:
        """Their orders."""
        kept = list(self._orders.values())
        return ledger_of([times for times, _ in kept], [last_at for _, last_at in kept])


async def sampled(database: Database, order: FitOrder) -> AsyncIterator[Sample]:
    """The sample as it grows, after every page."""
    sample, zone = Sample(order.customers_max), ZoneInfo(order.zone)
    for partition in range(order.partitions):
        async for page in workspace_states(database, partition, order.workspace, PAGE):
            for customer, state in page:
                profile = decode(narrowed(state, "orders", "subscriptions"))
                snapshot = snapshot_of(order.workspace, profile, zone, order.trust_min)
                bought = buying(snapshot, order.trust_min, order.day_ms, order.at)
                if bought is not None:
                    sample.add(customer, bought.order_times, bought.last_at)
            yield sample
    yield sample


async def answered(order: FitOrder) -> AsyncIterator[FitAnswer]:
    """What the process says, in order."""
    database = open_database(order.database_url, Path(order.data_dir), "scoring")
    try:
        sample = Sample(1)
        async for sample in sampled(database, order):
            yield FitAnswer(sample.read)
    finally:
        await database.close()
    yield FitAnswer(sample.read, read_all=True)
    try:
        found = refit(sample.ledger(), order.at, order.model, order.change_min, sample.share)
    except Unfitted as error:
        yield FitAnswer(sample.read, read_all=True, refused=str(error))
    else:
        yield FitAnswer(sample.read, read_all=True, model=found.model, differs=found.differs)


async def main() -> None:
    """Carry out the order on standard input."""
    os.nice(NICENESS)
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=FitOrder)
    try:
        async for answer in answered(order):
            _say(answer)
    except BrokenPipeError:
        return  # whoever asked is gone
    except Exception as error:
        _say(FitAnswer(0, failed=named(error)))


def _say(answer: FitAnswer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(main())
