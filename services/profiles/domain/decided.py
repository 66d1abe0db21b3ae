"""What scoring decided, read from its CloudEvents: leniently, since they may be newer than this code. Pure parsing."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from shared.epoch import epoch_ms
from shared.errors import Poison
from shared.ids import leaf_from_text

NO_RISK = -1
"""`risk_ppm` of a customer about whom no risk can be told."""
NEVER_AT = -(2**62)
PPM = 1_000_000

Instant = int | str | None
"""A time as CloudEvents carry it: epoch milliseconds or RFC 3339."""


class _Event(msgspec.Struct):
    type: str
    subject: str
    workspace: str
    data: msgspec.Raw
    sequence: int | str = 0
    time: Instant = None


class _Stage(msgspec.Struct):
    stage: str
    at: Instant = None
    risk: float | None = None
    risk_at: Instant = None
    reasons: msgspec.Raw = msgspec.Raw(b"null")


class _Alert(msgspec.Struct):
    alert_id: str
    revision: int
    state: str
    risk: float | None = None
    risk_at: Instant = None
    emitted_at: Instant = None
    at: Instant = None


class _Erased(msgspec.Struct):
    at: Instant = None


class StandingRow(NamedTuple):
    """Where a customer stands, as decided. The stage of the highest `sequence` holds, the risk of the latest time.

    `reasons`: JSON as scoring wrote it · a row from an alert has sequence -1 and says nothing of the stage.
    """

    customer: bytes
    workspace: str
    sequence: int
    stage: str
    stage_at: int
    risk_ppm: int
    risk_at: int
    reasons: bytes


class AlertRow(NamedTuple):
    """One alert; the highest revision of an id holds. `body`: the CloudEvent as scoring wrote it."""

    id: bytes
    workspace: str
    customer: bytes
    revision: int
    state: str
    body: bytes


class TransitionRow(NamedTuple):
    """One decision as recorded, for ever. `alert`: b"" for a change of stage.

    `number`: the alert's revision, or the customer's sequence · `at`: the instant it speaks of · `says`: the stage, or
    the alert's state · `body`: reasons of the stage, or the CloudEvent of the alert.
    """

    topic: str
    partition: int
    position: int
    workspace: str
    customer: bytes
    alert: bytes
    number: int
    at: int
    recorded_at: int
    says: str
    risk_ppm: int
    risk_at: int
    body: bytes


class Decided(NamedTuple):
    """What one record says. `at`: the instant it speaks of · `erased`: a customer who was erased, b"" for none."""

    standing: StandingRow | None
    alert: AlertRow | None
    at: int = NEVER_AT
    erased: bytes = b""


def decided_of(body: bytes) -> Decided:
    """Rows of one CloudEvent; none for a type this code does not know. Raises Poison for what is no such event."""
    try:
        event = msgspec.json.decode(body, type=_Event)
        customer = leaf_from_text(event.subject)
        if event.type == "raftar.segment.changed":
            stage = _stage_row(event, customer)
            return Decided(stage, None, stage.stage_at)
        if event.type.startswith("raftar.alert."):
            return _alert_rows(event, customer, body)
        if event.type == "raftar.customer.erased":
            erased = msgspec.json.decode(event.data, type=_Erased)
            return Decided(None, None, _first_of(erased.at, event.time), customer)
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise Poison(f"not a decision: {type(error).__name__}: {error}") from error
    return Decided(None, None)


def _stage_row(event: _Event, customer: bytes) -> StandingRow:
    data = msgspec.json.decode(event.data, type=_Stage)
    at = _first_of(data.at, event.time)
    risk_at = _first_of(data.risk_at, at)
    stage = (customer, event.workspace, int(event.sequence), data.stage, at)
    return StandingRow(*stage, _ppm(data.risk), risk_at, bytes(data.reasons))


def _alert_rows(event: _Event, customer: bytes, body: bytes) -> Decided:
    data = msgspec.json.decode(event.data, type=_Alert)
    alert = AlertRow(_alert_id(data.alert_id), event.workspace, customer, data.revision, data.state, body)
    spoken_of = _first_of(data.at, event.time, data.emitted_at)
    if data.risk is None:
        return Decided(None, alert, spoken_of)
    at = _first_of(data.risk_at, data.emitted_at, event.time)
    risk = StandingRow(customer, event.workspace, -1, "", NEVER_AT, _ppm(data.risk), at, b"null")
    return Decided(risk, alert, spoken_of)


def transition_of(
    decided: Decided, topic: str, partition: int, position: int, recorded_at: int
) -> TransitionRow | None:
    """The row that keeps what a record at this place said; None where it said nothing."""
    standing, alert, at = decided[:3]
    risk_ppm, risk_at = (NO_RISK, NEVER_AT) if standing is None else (standing.risk_ppm, standing.risk_at)
    place = (topic, partition, position)
    if alert is not None:
        return TransitionRow(
            *place, alert.workspace, alert.customer, alert.id, alert.revision, at, recorded_at, alert.state, risk_ppm,
            risk_at, alert.body,
        )  # fmt: skip
    if standing is None:
        return None
    return TransitionRow(
        *place, standing.workspace, standing.customer, b"", standing.sequence, at, recorded_at, standing.stage,
        risk_ppm, risk_at, standing.reasons,
    )  # fmt: skip


def shown_alert(body: bytes) -> dict[str, Any]:
    """What REST shows of an alert: the event's data."""
    return dict(msgspec.json.decode(body)["data"])


def holding_standings(rows: Iterable[StandingRow]) -> list[StandingRow]:
    """One row per customer, by customer, merged as the table merges."""
    held: dict[bytes, StandingRow] = {}
    for row in rows:
        known = held.get(row.customer)
        held[row.customer] = row if known is None else _joined(known, row)
    return [held[customer] for customer in sorted(held)]


def holding_alerts(rows: Iterable[AlertRow]) -> list[AlertRow]:
    """One row per alert, by id: the highest revision."""
    held: dict[bytes, AlertRow] = {}
    for row in rows:
        known = held.get(row.id)
        if known is None or row.revision > known.revision:
            held[row.id] = row
    return [held[alert] for alert in sorted(held)]


def _joined(a: StandingRow, b: StandingRow) -> StandingRow:
    stage = b if b.sequence > a.sequence else a
    risk = b if (b.risk_at, b.risk_ppm) > (a.risk_at, a.risk_ppm) else a
    return stage._replace(risk_ppm=risk.risk_ppm, risk_at=risk.risk_at)


def _alert_id(text: str) -> bytes:
    digits = text.replace("-", "")
    if not 2 <= len(digits) <= 128:
        raise ValueError("an alert id is written in hexadecimal digits")
    return bytes.fromhex(digits)


def _ppm(risk: float | None) -> int:
    if risk is None:
        return NO_RISK
    if not 0.0 <= risk <= 1.0:
        raise ValueError("a risk lies between 0 and 1")
    return round(risk * PPM)


def _first_of(*instants: Instant) -> int:
    for instant in instants:
        if isinstance(instant, str):
            return epoch_ms(datetime.fromisoformat(instant))
        if instant is not None:
            return instant
    return NEVER_AT
