"""The id of a stream's events: an opaque vector of positions, from which a reader goes on without gap or repeat. Pure.

Text is base64 of msgpack {topic: (identity, [next position by partition])}. `identity` is a checksum of the log's own
id of the topic, so that an id from another log is not taken for a place in this one.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Annotated

import msgspec

from shared.errors import InvalidField

TEXT_MAX = 32_768
FIELD = "last_event_id"

Vector = dict[str, list[int]]
"""Topic → next position to read, by partition."""

_Place = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Saved = dict[str, tuple[int, list[_Place]]]
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Saved)


def id_of(vector: Vector, identities: Mapping[str, int]) -> str:
    """The id of an event that was told when the reader stood at `vector`."""
    saved = {topic: (identities[topic], places) for topic, places in vector.items()}
    return urlsafe_b64encode(_encode(saved)).rstrip(b"=").decode()


def vector_of(text: str, identities: Mapping[str, int], partitions: int) -> tuple[Vector, list[str]]:
    """Where the id says to go on, and the topics of it that lie on another log. Raises InvalidField."""
    try:
        if len(text) > TEXT_MAX:
            raise ValueError(f"over {TEXT_MAX} characters")
        saved = _decoder.decode(urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4)))
    except (ValueError, msgspec.MsgspecError):
        raise InvalidField(FIELD, "is not the id of an event of this stream") from None
    known = {topic: entry for topic, entry in saved.items() if topic in identities}
    if any(len(places) != partitions for _, places in known.values()):
        raise InvalidField(FIELD, f"is of a house with another number of partitions than {partitions}")
    strange = [topic for topic, (identity, _) in known.items() if identity != identities[topic]]
    return {topic: places for topic, (_, places) in known.items()}, strange
