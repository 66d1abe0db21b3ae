"""Gathering: requests of one turn share records and an append, and nothing of one reaches another."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.ingest.domain.terms import Admitted, Arrival, Refused, Result
from services.ingest.gathering import APPENDS_AT_ONCE, Gathering, Request, Taken
from services.ingest.senders import Senders
from services.ingest.wire import Envelope
from shared.codec import decode
from shared.errors import OutcomeUnknown, TooLarge
from shared.events import Sealed, TouchpointsRecorded
from shared.log.port import RECORD_BYTES_MAX, Outgoing
from tests.support.door import ARRIVAL, SECRET_SENDER, native, taken

REFUSED = Refused("invalid_field", "kind", "is missing", b"{}")


def visit(number: int, **fields: Any) -> Admitted:
    return taken(native({"kind": "custom", "name": "Seen", "user_id": "u1", "id": number, **fields}))


def request(*values: Any, sent_at: int | None = None, received_at: int = ARRIVAL.received_at) -> Request:
    items = cast(Sequence[bytes], values)  # `as_said` takes them for their own results
    return Request(Envelope(items, single=True), SECRET_SENDER, Arrival(received_at, sent_at), None, native=True)


def as_said(asked: Request) -> list[Result]:
    """Admission that is told its result, or that fails."""
    results = cast(list[Any], list(asked.envelope.items))
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


@dataclass
class Door:
    """A gathering, and a log that keeps what it is given or fails; it answers when it is let."""

    appends: list[list[Outgoing]] = field(default_factory=list)
    fails: Callable[[list[Outgoing]], Exception | None] = lambda _records: None
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        sealed = Sealed("k1", b"", b"")
        senders = SimpleNamespace(sealing=lambda _workspace, _now_ms: lambda _personal: sealed)
        self.gathering = Gathering(as_said, self.append, cast(Senders, senders), 4)
        self.open.set()

    async def append(self, records: list[Outgoing]) -> None:
        self.appends.append(records)
        await self.open.wait()
        if error := self.fails(records):
            raise error

    def facts(self) -> list[TouchpointsRecorded]:
        return [cast(TouchpointsRecorded, decode(one.value)) for records in self.appends for one in records]

    def take(self, *requests: Request) -> list["asyncio.Task[Taken]"]:
        return [asyncio.create_task(self.gathering.take(one)) for one in requests]


async def test_requests_of_one_turn_share_a_record_in_the_order_they_came() -> None:
    door, visits = Door(), [visit(n) for n in range(5)]
    tasks = door.take(*(request(one, received_at=1_000 + n) for n, one in enumerate(visits)))
    assert await asyncio.gather(*tasks) == [([one], True) for one in visits]
    [fact] = door.facts()
    assert list(fact.touchpoints) == [one.touchpoint for one in visits]
    assert fact.received_at == 1_004, "the time of the last of them"


async def test_what_was_sent_at_different_times_has_records_of_its_own_in_one_append() -> None:
    door = Door()
    await asyncio.gather(*door.take(request(visit(1), sent_at=5), request(visit(2), sent_at=6), request(visit(3))))
    assert [fact.sent_at for fact in door.facts()] == [5, 6, None]
    assert len(door.appends) == 1


async def test_what_is_not_simple_goes_back_to_its_caller() -> None:
    door = Door()
    tasks = door.take(request(visit(1)), request(REFUSED), request(visit(3, import_id="i-1")))
    answers = await asyncio.gather(*tasks)
    assert [appended for _, appended in answers] == [True, False, False]
    assert len(door.facts()) == 1


async def test_a_fault_in_one_request_is_its_own() -> None:
    door = Door()
    good, bad = door.take(request(visit(1)), request(ZeroDivisionError()))
    assert (await good)[1]
    with pytest.raises(ZeroDivisionError):
        await bad


async def test_each_hears_of_the_failed_log_with_an_error_of_its_own() -> None:
    door = Door(fails=lambda _records: OutcomeUnknown("nobody knows", 7))
    errors = await asyncio.gather(*door.take(request(visit(1)), request(visit(2))), return_exceptions=True)
    assert [(type(one), str(one)) for one in errors] == [(OutcomeUnknown, "nobody knows")] * 2
    assert [cast(OutcomeUnknown, one).retry_after_seconds for one in errors] == [7, 7]
    assert errors[0] is not errors[1]
    door.fails = lambda _records: None
    assert await asyncio.gather(*door.take(request(visit(3)))), "and the next is taken"


async def test_a_cancelled_caller_disturbs_nobody() -> None:
    door = Door()
    door.open.clear()
    gone, stays = door.take(request(visit(1)), request(visit(2)))
    await asyncio.sleep(0.01)
    gone.cancel()
    door.open.set()
    assert (await stays)[1]
    assert gone.cancelled() or gone.cancelling()


async def test_while_the_log_is_busy_what_comes_gathers() -> None:
    door = Door()
    door.open.clear()
    tasks: list[asyncio.Task[Taken]] = []
    for number in range(6):
        tasks += door.take(request(visit(number)))
        await asyncio.sleep(0.01)
    assert len(door.appends) == APPENDS_AT_ONCE
    door.open.set()
    await asyncio.gather(*tasks)
    assert len(door.appends) == APPENDS_AT_ONCE + 1, "the other four together"
    assert sum(len(fact.touchpoints) for fact in door.facts()) == 6


async def test_how_long_the_first_waits_is_told_to_those_who_come() -> None:
    door = Door()
    assert door.gathering.waited_seconds() == 0
    door.open.clear()
    tasks = []
    for number in range(APPENDS_AT_ONCE + 2):
        tasks += door.take(request(visit(number)))
        await asyncio.sleep(0.02)
    assert 0.02 <= door.gathering.waited_seconds() < 5
    door.open.set()
    await asyncio.gather(*tasks)
    assert door.gathering.waited_seconds() == 0


async def test_whoever_makes_a_record_too_large_is_told_alone() -> None:
    door = Door()
    huge = visit(1, properties={"text": "x"})
    huge.touchpoint.properties["much"] = "y" * RECORD_BYTES_MAX
    bad, good = door.take(request(huge), request(visit(2)))
    assert (await good)[1]
    with pytest.raises(TooLarge):
        await bad


async def test_what_was_admitted_elsewhere_joins_the_others() -> None:
    door = Door()
    door.open.clear()
    tasks: list[asyncio.Task[Any]] = [*door.take(request(visit(1)))]
    for number in (2, 3, 4):
        await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(door.gathering.append(request(), [visit(number)])))
    await asyncio.sleep(0.01)
    door.open.set()
    await asyncio.gather(*tasks)
    assert [len(fact.touchpoints) for fact in door.facts()] == [1, 1, 2]
