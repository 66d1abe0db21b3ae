"""Admission: one item as a client sent it becomes a touchpoint, a link, or a refusal with path and reason.

Bad input never raises. Two doors lead in: Segment's shape (`admit_segment`) and Raftar's own (`admit_native`). Paths in
refusals are relative to the item, e.g. `properties.amount`; `ROOT_PATH` means the whole item.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from services.ingest.domain.draft import Draft, Offered, as_identifier
from services.ingest.domain.native import read_native
from services.ingest.domain.parting import Person, part_draft
from services.ingest.domain.personal import KNOWN_CHARACTERS_MIN
from services.ingest.domain.segment import read_segment
from services.ingest.domain.shape import check_shape
from services.ingest.domain.terms import (
    ROOT_PATH,
    Admitted,
    AdmittedLink,
    Arrival,
    Limits,
    Refused,
    Result,
    Sender,
)
from services.ingest.domain.traces import looks_personal, may_stay
from shared.errors import InvalidField
from shared.events import PUBLIC, IdentityLinked, Touchpoint
from shared.identifiers import leaf_of, normalise
from shared.ids import derived_id, touchpoint_id

__all__ = [
    "ROOT_PATH",
    "Admitted",
    "AdmittedLink",
    "Arrival",
    "Limits",
    "Refused",
    "Result",
    "Sender",
    "admit_native",
    "admit_segment",
    "check_shape",
]

NewId = Callable[[], bytes]

_canonical = msgspec.msgpack.Encoder(order="deterministic")
_NOT_THE_EVENT = frozenset(("sentAt", "writeKey", "_metadata"))
_PUBLIC_KINDS = frozenset(("user", "anonymous"))
_QUOTED = re.compile(r"'.*'|\".*\"", re.DOTALL)  # greedy: a value may hold quotes of its own
_OUR_QUOTE = re.compile(r"^'[A-Za-z_. -]{1,40}' is not ")
_OUR_WORDS = frozenset(("kind", "type", "channel"))
_OBJECTS = frozenset(("properties", "context", "traits", "identifiers", "integrations"))
_PATH_CHARACTERS = 200


def admit_segment(
    kind: str | None,
    item: Any,
    raw: bytes,
    sender: Sender,
    arrival: Arrival,
    envelope_context: dict[str, Any],
    new_id: NewId,
    limits: Limits,
) -> Result:
    """One call of Segment's HTTP API.

    `kind`: identify, track, page, screen, group or alias as the path says; None in a batch (the item's own `type`
    decides) · `item`: the decoded JSON, of whatever type · `raw`: its bytes as received; their length is judged and
    they come back in a refusal · `envelope_context`: the batch's `context`, which lies under the item's own ({}).
    """
    try:
        _check(item, raw, limits)
        if envelope_context:
            _check_envelope(envelope_context, raw, limits)
        draft = read_segment(kind, item, sender, arrival, envelope_context)
        return _admitted(draft, kind or "", item, sender, arrival, new_id, limits)
    except InvalidField as error:
        return _refused(error, raw)


def admit_native(item: Any, raw: bytes, sender: Sender, arrival: Arrival, new_id: NewId, limits: Limits) -> Result:
    """One touchpoint of `POST /v1/touchpoints` (fields: `native.NativeTouchpoint`); arguments as `admit_segment`."""
    try:
        _check(item, raw, limits)
        return _admitted(read_native(item, sender, arrival), "", item, sender, arrival, new_id, limits)
    except InvalidField as error:
        return _refused(error, raw)


def _admitted(
    draft: Draft,
    call: str,
    item: dict[str, Any],
    sender: Sender,
    arrival: Arrival,
    new_id: NewId,
    limits: Limits,
) -> Admitted | AdmittedLink:
    check_name(draft.name, limits)
    if draft.import_id and len(draft.import_id.encode()) > limits.id_bytes:
        raise InvalidField("import_id", f"is longer than {limits.id_bytes} bytes", "too_large")
    id_, deduplicable = _identity(draft, call, item, new_id, limits)
    person = person_of(draft, sender)
    touchpoint, personal = _touchpoint(draft, id_, person, sender, arrival)
    admitted = Admitted(touchpoint, personal, deduplicable, draft.import_id)
    return admitted if person.alias is None else AdmittedLink(_link(touchpoint, person.alias, sender), admitted)


def _check(item: Any, raw: bytes, limits: Limits) -> None:
    if len(raw) > limits.item_bytes:
        raise InvalidField(ROOT_PATH, f"has {len(raw)} bytes, more than {limits.item_bytes}", "too_large")
    if type(item) is not dict:
        raise InvalidField(ROOT_PATH, "must be an object", "invalid_type")
    check_shape(item, limits)


def _check_envelope(context: dict[str, Any], raw: bytes, limits: Limits) -> None:
    """The batch's context is written with every item, so it counts with every item."""
    check_shape({"context": context}, limits)
    if len(raw) + len(_canonical.encode(context)) > limits.item_bytes:
        raise InvalidField("context", f"with the batch's context more than {limits.item_bytes} bytes", "too_large")


def check_name(name: str, limits: Limits) -> None:
    """Raises InvalidField for a name over its bound."""
    if name and len(name.encode()) > limits.name_bytes:
        raise InvalidField("name", f"is longer than {limits.name_bytes} bytes", "too_large")


def _identity(draft: Draft, call: str, item: dict[str, Any], new_id: NewId, limits: Limits) -> tuple[bytes, bool]:
    """(id, deduplicable): the client's id, else a hash of the event as sent where it has a time, else a fresh one."""
    if draft.client_id is not None and draft.client_id[1] != "":
        path, value = draft.client_id
        return known_id(as_identifier(value, path), path, limits), True
    if draft.when.client_at is None:
        return new_id(), False
    event = {name: value for name, value in item.items() if name not in _NOT_THE_EVENT}
    return derived_id("event", call, _canonical.encode(event)), True


def known_id(text: str, path: str, limits: Limits) -> bytes:
    """The 16 bytes kept of a client's id. Raises InvalidField for one over its bound."""
    if 4 * len(text) > limits.id_bytes and len(text.encode()) > limits.id_bytes:
        raise InvalidField(path, f"is longer than {limits.id_bytes} bytes", "too_large")
    return touchpoint_id(text)


def person_of(draft: Draft, sender: Sender) -> Person:
    """Leaves in order of rank, each with its identifier in the clear; what a public key may not say is unverified.

    Raises InvalidField where nobody is named, or an identifier is wrong that must be right.
    """
    found: dict[bytes, tuple[str, str]] = {}
    sent: set[str] = set()
    unverified: dict[str, Any] = {}
    left_out: dict[str, Any] = {}
    first_error: InvalidField | None = None
    for offered in draft.offered:
        sent.add(str(offered.value))
        if sender.trust == PUBLIC and offered.kind not in _PUBLIC_KINDS:
            unverified[offered.kind] = offered.value
            continue
        try:
            leaf, value = _leaf(offered, sender)
        except InvalidField as error:
            if offered.strict:
                raise
            first_error = first_error or error
            left_out[offered.path] = offered.value
            continue
        found[leaf] = (offered.kind, value)
    if not found:
        raise first_error or _nobody(draft, bool(unverified))
    leaves = tuple(sorted(found))
    alias = _leaf(draft.alias_of, sender) if draft.alias_of is not None else None
    identifiers = [list(found[leaf]) for leaf in leaves]
    forms = {value for _, value in identifiers}
    if alias is not None:
        forms.add(alias[1])
    known = [text for text in sent | forms if len(text) >= KNOWN_CHARACTERS_MIN]
    return Person(leaves, identifiers, known, unverified, left_out, alias[0] if alias is not None else None)


def _nobody(draft: Draft, has_unverified: bool) -> InvalidField:
    why = "; an email, phone or provider id counts with a secret key only" if has_unverified else ""
    return InvalidField(draft.identifier_path, f"a user or anonymous id is needed{why}", "missing")


def _leaf(offered: Offered, sender: Sender) -> tuple[bytes, str]:
    text = as_identifier(offered.value, offered.path)
    try:
        return _known_leaf(sender.leaf_secret, sender.workspace, sender.region, offered.kind, text)
    except InvalidField:
        normalise(offered.kind, text, sender.region, field=offered.path)  # the same refusal, with its path
        raise


@lru_cache(16384)
def _known_leaf(secret: bytes, workspace: str, region: str, kind: str, text: str) -> tuple[bytes, str]:
    """Leaf and normalised text. Who was here a moment ago mostly comes again; a phone costs a hundred times more."""
    value = normalise(kind, text, region)
    return leaf_of(secret, workspace, kind, value), value


def _touchpoint(
    draft: Draft, id_: bytes, person: Person, sender: Sender, arrival: Arrival
) -> tuple[Touchpoint, dict[str, Any]]:
    parted = part_draft(draft, person, sender, arrival)
    touchpoint = Touchpoint(
        id=id_,
        day=draft.when.day,
        kind=draft.kind,
        channel=draft.channel,
        leaves=person.leaves,
        occurred_at=draft.when.occurred_at,
        client_at=draft.when.client_at,
        properties=parted.properties,
        context=parted.context,
        name=parted.name,
    )
    return touchpoint, parted.personal


def _link(touchpoint: Touchpoint, other: bytes, sender: Sender) -> IdentityLinked:
    low, high = sorted((touchpoint.leaves[0], other))
    return IdentityLinked(
        workspace=sender.workspace,
        id=touchpoint.id,
        a=low,
        b=high,
        alias=True,
        operator=False,
        occurred_at=touchpoint.occurred_at,
    )


def _refused(error: InvalidField, raw: bytes) -> Refused:
    """Path and reason stay in the clear: an email as a key, or a value quoted by a check, must not stand there."""
    path = error.field
    if not may_stay(path):
        # An email has dots of its own: only the item's own field in front of it can be told apart.
        top = path.partition(".")[0]
        path = f"{top}.(personal)" if top in _OBJECTS else "(personal)"
    path = path.replace("\0", "").encode("utf-8", "replace").decode()[:_PATH_CHARACTERS]
    reason = error.reason
    if path not in _OUR_WORDS or not _OUR_QUOTE.search(reason):
        reason = _QUOTED.sub("the value", reason)
    if looks_personal(reason):
        reason = "is not valid"
    return Refused(error.code, path or ROOT_PATH, reason.encode("utf-8", "replace").decode(), raw)
