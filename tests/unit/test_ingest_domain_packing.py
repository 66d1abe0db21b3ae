"""Packing: few records, in order, below the bound, with the personal fields sealed beside their index."""

from typing import Any

import pytest
from nacl.public import PrivateKey

from services.ingest.domain.admission import Admitted, AdmittedLink, Refused
from services.ingest.domain.packing import pack, pack_failed
from shared.codec import decode
from shared.errors import TooLarge
from shared.events import IdentityLinked, Sealed, TouchpointFailed, TouchpointsRecorded
from shared.ids import partition_of
from shared.log.port import RECORD_BYTES_MAX
from shared.sealing import Opener, Sealer
from tests.support.door import ARRIVAL, CLOCK, SECRET_SENDER, native, refused, segment, taken

PRIVATE = PrivateKey(bytes(range(32)))
SEALER = Sealer("k1", bytes(PRIVATE.public_key))
OPENER = Opener({"k1": bytes(PRIVATE)})


def seal(personal: dict[int, dict[str, Any]]) -> Sealed:
    return SEALER.seal(personal, 1)


def visits(users: int, each: int = 1, **fields: Any) -> list[Admitted | AdmittedLink]:
    return [
        taken(native({"kind": "custom", "name": "Seen", "user_id": f"u{n % users}", "id": n, **fields}))
        for n in range(users * each)
    ]


def recorded(value: bytes) -> TouchpointsRecorded:
    fact = decode(value)
    assert isinstance(fact, TouchpointsRecorded)
    return fact


def test_one_record_a_partition_in_order() -> None:
    results = visits(40, each=3)
    records = pack(results, SECRET_SENDER, ARRIVAL, 4, seal)
    assert sorted(record.partition for record in records) == [0, 1, 2, 3]
    for record in records:
        fact = recorded(record.value)
        expected = [
            result
            for result in results
            if isinstance(result, Admitted) and partition_of(result.touchpoint.leaves[0], 4) == record.partition
        ]
        assert list(fact.touchpoints) == [admitted.touchpoint for admitted in expected]
        assert fact.personal is not None
        assert OPENER.open(fact.personal) == {index: admitted.personal for index, admitted in enumerate(expected)}
        assert (fact.workspace, fact.source, fact.trust) == ("main", "backend", SECRET_SENDER.trust)
        assert (fact.received_at, fact.sent_at, fact.import_id) == (ARRIVAL.received_at, None, "")


def test_history_and_live_are_records_of_their_own() -> None:
    records = pack(visits(1) + visits(1, import_id="i-1"), SECRET_SENDER, ARRIVAL, 4, seal)
    assert [recorded(record.value).import_id for record in records] == ["", "i-1"]


def test_a_large_request_is_split_in_order() -> None:
    results = visits(1, each=60, properties={"blob": "x" * 30_000})
    records = pack(results, SECRET_SENDER, ARRIVAL, 16, seal)
    assert len(records) > 3
    assert len({record.partition for record in records}) == 1
    assert all(len(record.value) <= RECORD_BYTES_MAX for record in records)
    packed = [touchpoint for record in records for touchpoint in recorded(record.value).touchpoints]
    assert packed == [result.touchpoint for result in results]


def test_one_touchpoint_over_the_bound_is_said() -> None:
    with pytest.raises(TooLarge):
        pack(visits(1), SECRET_SENDER, ARRIVAL, 16, seal, record_bytes_max=50)


def test_a_link_lies_on_the_partition_of_its_smaller_leaf() -> None:
    for number in range(20):
        link = segment("alias", {"userId": f"new{number}", "previousId": f"old{number}"}, SECRET_SENDER)
        assert isinstance(link, AdmittedLink)
        records = pack([link], SECRET_SENDER, ARRIVAL, 16, seal)
        commands = [
            (record.partition, fact) for record in records if isinstance(fact := decode(record.value), IdentityLinked)
        ]
        assert commands == [(partition_of(min(link.command.a, link.command.b), 16), link.command)]
        assert len(records) == 2


def test_nothing_packs_to_nothing() -> None:
    assert pack([], SECRET_SENDER, ARRIVAL, 16, seal) == []


def test_what_failed_goes_whole_and_sealed() -> None:
    item = {"kind": "nothing", "email": "sara@example.com"}
    result = refused(native(item))
    (record,) = pack_failed([result], SECRET_SENDER, ARRIVAL, 4, seal, CLOCK.new_id)
    fact = decode(record.value)
    assert isinstance(fact, TouchpointFailed)
    assert b"sara" not in record.value
    assert OPENER.open(fact.item) == {0: {"item": result.item}}
    huge = Refused("too_large", "$", "too large", b"x" * (RECORD_BYTES_MAX + 1))
    (record,) = pack_failed([huge], SECRET_SENDER, ARRIVAL, 4, seal, CLOCK.new_id)
    assert len(record.value) < RECORD_BYTES_MAX
    cut = decode(record.value)
    assert isinstance(cut, TouchpointFailed)
    assert "first" in cut.reason
    assert (fact.code, fact.path, fact.source) == ("unknown_kind", "kind", "backend")
