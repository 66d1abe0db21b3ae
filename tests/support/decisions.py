"""Driving the scoring step without a log: changes and statements made by hand, and what must hold after any of it."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

from services.scoring.decide import ChangesProjection
from services.scoring.defaults import default_rules
from services.scoring.domain.alerts import OPEN, Alert
from services.scoring.domain.decision import due
from services.scoring.domain.definitions import Definition, in_force, model_of
from services.scoring.domain.pack import pack_of
from services.scoring.domain.rows import AlertRow, DecisionRow
from services.scoring.domain.snapshot import Snapshot, snapshot_of
from services.scoring.domain.step import Rules
from services.scoring.domain.succession import armed_definition
from services.scoring.domain.watermark import Heard
from services.scoring.store import SELECT_ALERT, SELECT_DECISION, SqlStore, decision_row
from shared import profile as profiles
from shared.checkpoint import Claim
from shared.clock import FrozenClock
from shared.codec import encode
from shared.database import Database, fetch
from shared.events import (
    SECRET,
    CustomerAbsorbed,
    CustomerErased,
    CustomerParked,
    Fact,
    ImportPassed,
    Place,
    ProfileChanged,
    Statement,
    Touchpoint,
    WatermarkStated,
)
from shared.ids import partition_of
from shared.log.port import Batch, Record
from shared.topics import PROFILE_CHANGES
from shared.vocabulary import fact_ref
from tests.builders import a_leaf, a_touchpoint
from tests.support.remaking import differing
from tests.support.steps import PARTITIONS, START_MS

SILENT_AFTER_SECONDS = 60
_STAGES = [
    {"stage": "prospect", "enter": ["orders = 0"]},
    {"stage": "fresh", "enter": ["silence < 10s"]},
    {"stage": "quiet", "enter": ["silence < 60s"]},
    {"stage": "gone", "enter": []},
]


def s(seconds: float) -> int:
    """Epoch milliseconds of a second after the start of the test."""
    return START_MS + round(seconds * 1000)


def a_definition(version: int = 1, effective_at: int = 0, *, silent_after: str = "60s", **rules: Any) -> Definition:
    """Stages and a silence that take seconds: fresh for 10 s, quiet until 60 s, then gone, and the alert is raised."""
    alerts = default_rules()["alerts"]
    alerts["silence"] = {"when": [f"silence >= {silent_after}"], "expires": "1000s"}
    merged = default_rules() | {"days": "1s", "stages": _STAGES, "alerts": alerts} | rules
    return Definition(version, effective_at, pack_of(merged), model_of({}))


def leaf_on(partition: int, name: str = "sara", rank: int = 0) -> bytes:
    """A leaf whose customer lies on `partition`."""
    tries = (a_leaf(f"{name}{n}", rank) for n in range(1_000))
    return next(leaf for leaf in tries if partition_of(leaf, PARTITIONS) == partition)


def bought(leaf: bytes, seconds: float, order: str = "", **more: Any) -> Touchpoint:
    """A purchase by `leaf`; its order is named after its leaf and time unless named."""
    order_id = order or f"{leaf.hex()[:12]}-{seconds}"
    return a_touchpoint("purchased", at=s(seconds), leaf=leaf, order_id=order_id, **more)


def complained(leaf: bytes, seconds: float) -> Touchpoint:
    """A complaint by `leaf`."""
    return a_touchpoint("complained", at=s(seconds), leaf=leaf)


def changed(
    customer: bytes,
    version: int,
    seconds: float,
    *touchpoints: Touchpoint,
    new: int = 1,
    leaves: Mapping[bytes, int] | None = None,
    import_id: str = "",
    trust: int = SECRET,
) -> ProfileChanged:
    """The customer after all of `touchpoints`, the last `new` of which came now; `leaves` → how often they moved."""
    profile = profiles.new()
    for touchpoint in touchpoints:
        profiles.fold(profile, touchpoint, "shop", trust)
    refs = tuple(fact_ref(touchpoint, trust) for touchpoint in touchpoints[max(0, len(touchpoints) - new) :])
    places = tuple(Place(leaf, moves) for leaf, moves in sorted((leaves or {}).items()))
    state = profiles.encode(profile)
    return ProfileChanged("main", customer, version, s(seconds), state, refs if new else (), places, import_id)


def absorbed(customer: bytes, into: bytes, version: int, seconds: float) -> CustomerAbsorbed:
    """`customer` became part of `into`."""
    return CustomerAbsorbed("main", customer, into, version, s(seconds))


def erased(customer: bytes, version: int, seconds: float) -> CustomerErased:
    """Nothing is known of the customer any more."""
    return CustomerErased("main", customer, version, s(seconds))


def parked(customer: bytes, version: int, seconds: float) -> CustomerParked:
    """The customer's state could not be carried."""
    return CustomerParked("main", customer, version, s(seconds), "too large")


@dataclass(slots=True)
class Scoring:
    """One scoring worker that owns every partition, and all it is told."""

    database: Database
    definitions: list[Definition] = field(default_factory=lambda: [a_definition()])
    clock: FrozenClock = field(default_factory=lambda: FrozenClock(START_MS))
    rules_age_seconds: float = 0.0
    claims: dict[int, Claim] = field(default_factory=dict)
    marks: dict[int, int] = field(default_factory=dict)
    projection: ChangesProjection = field(init=False)

    def __post_init__(self) -> None:
        self.projection = ChangesProjection(
            SqlStore(self.database, PARTITIONS),
            self.clock,
            PARTITIONS,
            lambda workspace: Rules(self.definitions, UTC),
            lambda: self.rules_age_seconds,
            Heard(PARTITIONS),
            in_force=lambda at: {"main": in_force(self.definitions, at).version},
        )

    async def acquire(self, partition: int) -> Claim:
        """Own a partition (again); what is stated from here on counts."""
        claim = await self.projection.store.acquire(PROFILE_CHANGES, partition, "test")
        self.claims[partition] = await self.projection.turn(claim)
        return self.claims[partition]

    async def claim(self, partition: int) -> Claim:
        """The claim of a partition, acquired when it is needed first."""
        return self.claims.get(partition) or await self.acquire(partition)

    async def tell(self, *facts: Fact, batch: int = 500) -> None:
        """Fold facts, each on its customer's partition, in the order given; runs of one partition in one batch."""
        run: list[Fact] = []
        at = -1
        for fact in facts:
            partition = partition_of(getattr(fact, "customer"), PARTITIONS)  # noqa: B009
            if run and (partition != at or len(run) == batch):
                await self.fold(at, run)
                run = []
            at = partition
            run.append(fact)
        if run:
            await self.fold(at, run)

    async def fold(self, partition: int, facts: Sequence[Fact]) -> None:
        """Fold one batch on a partition."""
        claim = await self.claim(partition)
        records = [Record(claim.position + n, START_MS, encode(fact)) for n, fact in enumerate(facts)]
        self.claims[partition] = await self.projection.fold(claim, Batch(tuple(records), claim.position + len(records)))

    async def pass_import(self, import_id: str, *froms: int, seconds: float = 0) -> None:
        """Touchpoints partitions `froms` have folded the import's end, as every partition reads it."""
        for partition in range(PARTITIONS):
            await self.fold(partition, [ImportPassed("main", import_id, one, PARTITIONS) for one in froms])

    def hear(self, watermark: int, *partitions: int) -> None:
        """Every touchpoints partition is folded up to `watermark`, and here all of it is read."""
        owned = partitions or tuple(self.claims)
        places = tuple(Statement(q, self.claims[q].position) for q in owned)
        self.projection.heard.hear(WatermarkStated(places, (watermark,) * PARTITIONS))
        for partition in owned:
            self.marks[partition] = max(self.marks.get(partition, -1), watermark)

    async def reach(self, watermark: int, *partitions: int) -> None:
        """Time passes: the watermark is heard, and partitions take their turn, later than any hint is believed."""
        owned = partitions or tuple(sorted(self.claims))
        self.hear(watermark, *owned)
        self.clock.advance(max(1_001, watermark - self.clock.now_ms()))
        await self.turn(*owned)

    async def turn(self, *partitions: int) -> None:
        """Let partitions take their turns, until nothing is left to be done."""
        for partition in partitions or tuple(sorted(self.claims)):
            self.claims[partition] = await self.projection.turn(self.claims[partition])
            while self.projection.unfinished(partition):
                self.claims[partition] = await self.projection.turn(self.claims[partition])

    # --- what came of it ------------------------------------------------------------------------------------

    async def rows(self) -> dict[bytes, DecisionRow]:
        """Every decision row."""
        async with self.database.snapshot() as connection:
            found = await fetch(connection, f"{SELECT_DECISION} ORDER BY customer")
        return {row[0]: decision_row(row) for row in found}

    async def alerts(self) -> dict[bytes, AlertRow]:
        """Every alert row."""
        async with self.database.snapshot() as connection:
            found = await fetch(connection, f"{SELECT_ALERT} ORDER BY id")
        return {row[0]: AlertRow(*row) for row in found}

    async def sent(self) -> list[tuple[str, int, bytes, bytes]]:
        """The outbox: topic, partition, key and bytes, in order."""
        pending = await self.projection.store.outbox(range(PARTITIONS), 1_000_000)
        return [(row.topic, row.partition, row.key, row.value) for row in pending.rows]

    async def told(self, customer: bytes | None = None, of: str = "") -> list[str]:
        """What was said (of one customer; whose type contains `of`), in short: type, time, stage or alert state."""
        return [_short(event) for event in await self.events(customer) if of in event["type"]]

    async def events(self, customer: bytes | None = None) -> list[dict[str, Any]]:
        """The CloudEvents in the outbox, in order."""
        return [json.loads(value) for _, _, key, value in await self.sent() if customer in (None, key)]

    async def state_of_alerts(self) -> set[tuple[bytes, str, str]]:
        """(customer, policy, state) of every alert."""
        return {(row.customer, row.policy, row.state) for row in (await self.alerts()).values()}

    async def contents(self) -> tuple[Any, ...]:
        """All that is stored and sent, to be compared between databases."""
        async with self.database.snapshot() as connection:
            columns = (
                "customer, partition, version, state, decision, due_at, absorbed_into, parked, held, armed_version"
            )
            decisions = await fetch(connection, f"SELECT {columns} FROM decision ORDER BY customer")
            alerts = await fetch(connection, f"{SELECT_ALERT} ORDER BY id")
        return [tuple(row) for row in decisions], [tuple(row) for row in alerts], await self.sent()

    # --- what always holds ----------------------------------------------------------------------------------

    async def check(self) -> None:
        """Whoever can still flip is armed at the right time and nobody else; what is said, stored and decided agree."""
        rows, alerts, sent = await self.rows(), await self.alerts(), await self.sent()
        for row in rows.values():
            assert row.due_at == self.due_of(row), f"{row.customer.hex()} is armed wrongly"
            settled = row.decision.settled
            assert settled < max(self.marks.values(), default=0), "silence was decided past every watermark"
        _check_sequences(sent)
        _check_alerts(alerts, rows, sent)
        rules = Rules(self.definitions, UTC)
        found = differing(rows, alerts, (value for _, _, _, value in sent), lambda _: rules, PARTITIONS)
        assert not found, "what was said gives the very rows that stand"

    def due_of(self, row: DecisionRow) -> int | None:
        """The due time as it follows from the row alone."""
        if row.absorbed_into or row.parked or not row.state:
            return None
        definition = armed_definition(row.decision, self.definitions)
        return due(row.decision, self.snapshot_of(row, definition), definition)

    def snapshot_of(self, row: DecisionRow, definition: Definition) -> Snapshot:
        """The customer as decisions see them."""
        return snapshot_of(row.workspace, profiles.decode(row.state), UTC, definition.pack.purchase_trust_min)


def _short(event: Mapping[str, Any]) -> str:
    data = event["data"]
    seconds = f"{(data['at'] - START_MS) / 1000:g}"
    name = event["type"].removeprefix("raftar.")
    if name == "customer.erased":
        return f"{name} @{seconds}"
    return (
        f"{name} {data['stage']} @{seconds}" if name == "segment.changed" else f"{name} r{data['revision']} @{seconds}"
    )


def _check_sequences(sent: Sequence[tuple[str, int, bytes, bytes]]) -> None:
    last: dict[bytes, str] = defaultdict(str)
    ids = set()
    for _, partition, key, value in sent:
        event = json.loads(value)
        assert bytes.fromhex(event["subject"]) == key
        assert partition == partition_of(key, PARTITIONS)
        assert event["sequence"] > last[key], "a customer's sequence must grow"
        last[key] = event["sequence"]
        ids.add(event["id"])
    assert len(ids) == len(sent), "each decision leaves with an id of its own"


def _check_alerts(
    alerts: Mapping[bytes, AlertRow],
    rows: Mapping[bytes, DecisionRow],
    sent: Sequence[tuple[str, int, bytes, bytes]],
) -> None:
    newest: dict[str, tuple[dict[str, Any], bytes]] = {}
    for _, _, _, value in sent:
        data = json.loads(value)["data"]
        if "alert_id" in data:
            before = newest.get(data["alert_id"])
            assert before is None or data["revision"] > before[0]["revision"], "an alert's revisions must grow"
            newest[data["alert_id"]] = data, value
    assert {name.replace("-", "") for name in newest} == {alert_id.hex() for alert_id in alerts}
    for name, (data, value) in newest.items():
        alert = alerts[bytes.fromhex(name.replace("-", ""))]
        assert (alert.revision, alert.state, alert.policy) == (data["revision"], data["state"], data["policy"])
        assert alert.body in (b"", value)
        mine = _known(rows[alert.customer], alert.id)
        if alert.state == OPEN:
            assert mine is not None, "an open alert belongs to a customer who knows it"
            assert (mine.state, mine.revision) == (alert.state, alert.revision)


def _known(row: DecisionRow, alert_id: bytes) -> Alert | None:
    return next((alert for alert in row.decision.alerts if alert.id == alert_id), None)
