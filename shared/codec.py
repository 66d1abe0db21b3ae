"""Fact ↔ bytes, by short stable name and version. Unknown kinds are values, newer versions stop."""

from typing import Any

import msgspec

from shared.errors import NewerVersion, Poison
from shared.events import FACTS, UPCASTERS, Fact


class Unknown(msgspec.Struct, frozen=True):
    """A fact of a kind this code does not know: kept in the log, counted, folded into nothing."""

    name: str


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_header = msgspec.msgpack.Decoder(tuple[str, int, msgspec.Raw])
_by_name = {fact.NAME: fact for fact in FACTS}
_decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {f.NAME: msgspec.msgpack.Decoder(f) for f in FACTS}


def encode(fact: Fact) -> bytes:
    """The bytes of a fact in its current version; equal facts give equal bytes (maps are sorted)."""
    return _encoder.encode((fact.NAME, fact.VERSION, fact))


def decode(data: bytes) -> Fact | Unknown:
    """A fact of any version ever written, brought to the current one.

    Raises NewerVersion for a version this code does not know, Poison for bytes that are no fact.
    """
    try:
        name, version, body = _header.decode(data)
    except msgspec.MsgspecError as error:
        raise Poison(f"not a fact: {error}") from error
    kind = _by_name.get(name)
    if kind is None:
        return Unknown(name)
    if version > kind.VERSION:
        raise NewerVersion(f"{name} version {version} is newer than {kind.VERSION}: deploy the newer code first")
    try:
        return _decoders[name].decode(body) if version == kind.VERSION else _upcast(kind, version, body)
    except msgspec.MsgspecError as error:
        raise Poison(f"{name} version {version}: {error}") from error


def _upcast(kind: type[Fact], version: int, body: bytes) -> Fact:
    value = msgspec.msgpack.decode(body)
    for step in range(version, kind.VERSION):
        value = UPCASTERS[kind.NAME, step](value)
    return msgspec.convert(value, kind)
