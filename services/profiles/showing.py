"""From rows to what people read: customers, identifiers with their explanation, timelines, failures."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from services.profiles import reading_failed
from services.profiles.domain.decided import NEVER_AT, NO_RISK, PPM, shown_alert
from services.profiles.domain.explanation import explain, sentence
from services.profiles.domain.identity import Assertion, Place, holding
from services.profiles.domain.personal import CONTEXT, IDENTIFIER
from services.profiles.domain.rows import Body
from services.profiles.reading import Happened, Kept, Listed, Standing, Whole
from services.profiles.wire import (
    KIND_NAMES,
    CustomerListed,
    CustomerView,
    FailureShown,
    IdentifierShown,
    PersonalShown,
    ReplayNeeds,
    TouchpointShown,
)
from shared import profile as profiles
from shared.codec import Unknown, decode
from shared.epoch import EPOCH, epoch_ms
from shared.errors import RaftarError
from shared.events import TouchpointsRecorded
from shared.ids import leaf_rank, leaf_text, uuid_text
from shared.moments import moment_text
from shared.vocabulary import KINDS

_FIRST_MS, _LAST_MS = epoch_ms(datetime.min.replace(tzinfo=UTC)), epoch_ms(datetime.max.replace(tzinfo=UTC))
_TRUST = ("public", "provider", "secret")
_TIMES = {kind.name: tuple(p.name for p in kind.properties if p.type == "time") for kind in KINDS.values()}

_body = msgspec.msgpack.Decoder(Body)
_value = msgspec.msgpack.Decoder()


def moment(at_ms: int) -> datetime:
    """Epoch milliseconds as a time; what no calendar holds is shown as its first or last day."""
    return EPOCH + timedelta(milliseconds=min(max(at_ms, _FIRST_MS), _LAST_MS))


def known_moment(at_ms: int | None) -> datetime | None:
    return None if at_ms is None or at_ms == NEVER_AT else moment(at_ms)


def risk_of(ppm: int | None) -> float | None:
    return None if ppm is None or ppm == NO_RISK else ppm / PPM


# --- customers ------------------------------------------------------------------------------------------------


def customer_view(
    whole: Whole,
    asked: bytes,
    decided: Standing | None,
    alerts: Sequence[bytes],
    identifiers: list[IdentifierShown],
    kept: Iterable[Kept],
    now_ms: int,
) -> CustomerView:
    """The whole view as of `now_ms`."""
    state = profiles.decode(whole.state) if whole.state else profiles.new()
    summary = profiles.summary(state, now_ms)
    decided = decided or Standing("", NEVER_AT, NO_RISK, NEVER_AT, b"null")
    return CustomerView(
        customer_id=leaf_text(whole.customer),
        resolved_from=None if asked == whole.customer else leaf_text(asked),
        version=whole.version,
        first_at=known_moment(summary.pop("first_at", None)),
        last_at=known_moment(summary.pop("last_at", None)),
        stage=decided.stage or None,
        stage_at=known_moment(decided.stage_at),
        risk=risk_of(decided.risk_ppm),
        risk_at=known_moment(decided.risk_at),
        reasons=timed(msgspec.json.decode(decided.reasons)),
        alerts=[timed(shown_alert(body)) for body in alerts],
        identifiers=identifiers,
        personal=_personal(kept),
        profile=_summary(summary),
        facts=f"/v1/customers/{leaf_text(whole.customer)}/facts",
    )


def _summary(summary: dict[str, Any]) -> dict[str, Any]:
    """Times of a summary (names in `_at`) as RFC 3339, days as dates; traits stay as they were told."""
    shown = {name: value if name == "traits" else timed(value) for name, value in summary.items()}
    for activity in shown["activity"]:
        activity["day"] = moment(activity["day"] * 86_400_000).date().isoformat()
    return shown


def timed(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: moment_text(moment(inner))
            if (name == "at" or name.endswith("_at")) and isinstance(inner, int)
            else timed(inner)
            for name, inner in value.items()
        }
    return [timed(inner) for inner in value] if isinstance(value, list) else value


def _personal(kept: Iterable[Kept]) -> PersonalShown:
    """Each trait and the context by its last writer among all leaves."""
    newest: dict[str, Kept] = {}
    for one in kept:
        known = newest.get(one.field)
        if known is None or (one.at, one.id) > (known.at, known.id):
            newest[one.field] = one
    traits = {
        field.removeprefix("trait:"): _value.decode(one.value)
        for field, one in sorted(newest.items())
        if field.startswith("trait:")
    }
    context = newest.get(CONTEXT)
    return PersonalShown(traits=traits, context=_value.decode(context.value) if context else {})


def listed(row: Listed, identifier: bytes | None) -> CustomerListed:
    """One line of the list; `identifier`: the kept value of its root."""
    return CustomerListed(
        customer_id=leaf_text(row.customer),
        identifier=None if identifier is None else ":".join(map(str, _value.decode(identifier))),
        first_at=moment(row.first_seen_at),
        last_at=moment(row.last_seen_at),
        purchases=row.purchases,
        spend_minor=row.spend_minor,
        currency=row.currency,
        stage=row.stage or None,
        stage_at=known_moment(row.stage_at),
        risk=risk_of(row.risk_ppm),
        risk_at=known_moment(row.risk_at),
    )


def identifiers_shown(
    leaves: Sequence[bytes], kept: Iterable[Kept], said: Iterable[Assertion], places: Mapping[bytes, Place]
) -> list[IdentifierShown]:
    """Every identifier with its place explained. `places`: of `leaves` and of all they are tied to."""
    told = {one.leaf: _value.decode(one.value) for one in kept if one.field == IDENTIFIER}
    ties = ties_of(said)
    shown = []
    for leaf in leaves:
        why = explain(leaf, lambda other: ties.get(other, {}), places)
        kind, value = told.get(leaf, (KIND_NAMES[leaf_rank(leaf)], None))
        shown.append(
            IdentifierShown(leaf=leaf_text(leaf), kind=kind, value=value, reason=why.code, explanation=sentence(why))
        )
    return shown


def ties_of(said: Iterable[Assertion]) -> dict[bytes, dict[bytes, bool]]:
    """leaf → the leaves it is tied to, and whether by an alias, by the assertions that hold."""
    ties: dict[bytes, dict[bytes, bool]] = {}
    for one in holding(said).values():
        if one.ties:
            ties.setdefault(one.a, {})[one.b] = one.alias
            ties.setdefault(one.b, {})[one.a] = one.alias
    return ties


# --- timeline --------------------------------------------------------------------------------------------------


def text_field(touchpoint_id: bytes) -> str:
    """Name under which the personal words of a touchpoint are kept."""
    return f"text:{uuid_text(touchpoint_id)}"


def touchpoint_shown(row: Happened, text: bytes | None) -> TouchpointShown:
    """One touchpoint; an erased one keeps its time and kind only."""
    body = _body.decode(row.body) if row.body else Body("", {}, {}, None, "", 0, NEVER_AT, "", ())
    properties = dict(body.properties)
    for name in _TIMES.get(row.kind, ()):
        if isinstance(properties.get(name), int):
            properties[name] = moment_text(moment(int(str(properties[name]))))
    return TouchpointShown(
        id=uuid_text(row.id),
        leaf=leaf_text(row.leaf),
        kind=row.kind,
        name=body.name,
        channel=row.channel,
        occurred_at=moment(row.occurred_at),
        received_at=known_moment(body.received_at),
        recorded_at=moment(row.recorded_at),
        client_at=body.client_at,
        source=body.source,
        trust=_TRUST[body.trust] if row.body else "",
        import_id=body.import_id,
        properties=properties,
        context=body.context,
        text=_value.decode(text) if text else {},
        erased=not row.body,
    )


# --- failures --------------------------------------------------------------------------------------------------


def refused_shown(row: reading_failed.Refused, opened: Mapping[str, Any] | None) -> FailureShown:
    """A refused item. `opened`: its sealed fields; {} where they cannot be opened, None for who may not see them."""
    item = opened.get("item") if opened else None
    return FailureShown(
        id=uuid_text(row.id),
        what="refused",
        at=moment(row.received_at),
        source=row.source,
        code=row.code,
        path=row.path,
        reason=row.reason,
        item=_as_sent(item) if isinstance(item, bytes) else None,
        position=None,
        state=row.closed or "open",
        closed_at=moment(row.closed_at) if row.closed else None,
        replay=_replay_needs(row, opened) if opened and not row.closed else None,
    )


def _replay_needs(row: reading_failed.Refused, opened: Mapping[str, Any]) -> ReplayNeeds:
    """Items of before these fields were kept: the shape shows, and they are trusted least."""
    sent_at, item = opened.get("sent_at"), opened.get("item")
    looks_native = isinstance(item, bytes) and b'"kind"' in item
    return ReplayNeeds(
        failed_id=uuid_text(row.id),
        source=row.source,
        trust=_TRUST[opened.get("trust", 0)],
        native=opened.get("native", looks_native),
        received_at=moment(row.received_at),
        sent_at=None if sent_at is None else moment(sent_at),
        context=opened.get("context", {}),
    )


def _as_sent(item: bytes) -> Any:
    """The JSON value, or the text where it is none that can be shown as JSON."""
    try:
        value = msgspec.json.decode(item)
        msgspec.json.encode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return item.decode("utf-8", "replace")
    return value


def parked_shown(row: reading_failed.Parked, personal: Mapping[str, Any] | None) -> FailureShown:
    """A parked fact. `personal`: its opened fields, None for whoever may not see the item."""
    place = f"{row.topic}/{row.partition}/{row.position}" + (f"/{row.place}" if row.place >= 0 else "")
    return FailureShown(
        id=f"{row.topic}.{row.partition}.{row.position}.{row.place}",
        what="parked",
        at=moment(row.parked_at),
        source=row.source,
        code="parked",
        path="",
        reason=row.reason,
        item=_as_kept(row.bytes) if row.bytes and personal is not None else None,
        position=place,
        state=row.closed or "open",
        closed_at=moment(row.closed_at) if row.closed else None,
        personal=dict(personal) if personal else None,
    )


def _as_kept(data: bytes) -> Any:
    """Kind, time and properties of each touchpoint of a parked record; None for any other bytes."""
    try:
        fact = decode(data)
    except RaftarError:
        return None
    if isinstance(fact, Unknown) or not isinstance(fact, TouchpointsRecorded):
        return {"fact": type(fact).__name__}
    return [
        {
            "id": uuid_text(one.id),
            "kind": one.kind,
            "occurred_at": moment_text(moment(one.occurred_at)),
            "properties": msgspec.to_builtins(one.properties),
        }
        for one in fact.touchpoints
    ]
