"""Opaque page cursors: where the last page ended, bound to the list it was cut from. Pure."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Any, TypeVar

import msgspec

from shared.errors import InvalidField

CURSOR_TEXT_MAX = 400

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Bytes = Annotated[bytes, msgspec.Meta(max_length=64)]
Text = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[a-z0-9_.:-]*$")]

C = TypeVar("C", bound="Cursor")


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """The place of the last row shown; each list has its own. Every field is bounded: it comes back from outside."""


def text_of(cursor: Cursor) -> str:
    """The cursor as one word for a URL."""
    return urlsafe_b64encode(msgspec.msgpack.encode(cursor)).rstrip(b"=").decode()


def cursor_of(text: str, kind: type[C], field: str = "next") -> C:
    """The cursor behind `text`. Raises InvalidField for anything that `text_of` did not make for this list."""
    try:
        data = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        decoded: Any = msgspec.msgpack.decode(data, type=kind)
    except (ValueError, msgspec.MsgspecError):
        raise InvalidField(field, "is not the `next` of a page of this list") from None
    found: C = decoded
    return found
