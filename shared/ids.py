"""Identities as bytes: leaves, derived ids, partitions. Pure: time and randomness come in as arguments.

A *leaf* is 16 bytes: one byte of rank, then 15 bytes of a keyed hash of the identifier. Bytes sort as
(rank, id), so the root of a customer is `min(leaves)`.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import NewType

Leaf = NewType("Leaf", bytes)

LEAF_BYTES = 16
DAY_MS = 86_400_000


def leaf_rank(leaf: bytes) -> int:
    """Rank of a leaf, 0 (user) to 4 (anonymous): its first byte."""
    return leaf[0]


def leaf_text(leaf: bytes) -> str:
    """A leaf or customer id as REST and CloudEvents show it: 32 lower-case hexadecimal digits."""
    return leaf.hex()


def leaf_from_text(text: str) -> Leaf:
    """The inverse of `leaf_text`. Raises ValueError for anything else than 32 hexadecimal digits."""
    leaf = bytes.fromhex(text)
    if len(leaf) != LEAF_BYTES or len(text) != 2 * LEAF_BYTES:
        raise ValueError("a customer id has 32 hexadecimal digits")
    return Leaf(leaf)


@lru_cache(16384)
def partition_of(key: bytes, partitions: int) -> int:
    """Partition of `key` among `partitions`, the same in every adapter and for ever.

    blake2b with an 8-byte digest, read big-endian, modulo `partitions` (1..65536). Who was here a moment ago mostly
    comes again, so answers are remembered.
    """
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") % partitions


def derived_id(*parts: bytes | str) -> bytes:
    """A 16-byte id that depends on `parts` only: blake2b over the parts, each framed by its length."""
    return blake2b(_framed(parts), digest_size=16).digest()


def _framed(parts: tuple[bytes | str, ...]) -> bytes:
    texts = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join([len(text).to_bytes(4, "big") + text for text in texts])


def touchpoint_id(client_id: str) -> bytes:
    """The 16 bytes kept of a client's id: a UUID's own bytes (so time-ordered ids stay ordered), else a hash."""
    if len(client_id) == 36 and client_id[8:24:5] == "----":
        try:
            return bytes.fromhex(client_id.replace("-", ""))
        except ValueError:
            pass
    return derived_id("touchpoint", client_id)


@lru_cache(16384)
def dedup_scope(workspace: str, source: str, leaf: bytes) -> bytes:
    """The 8-byte scope inside which a (day, id) means one touchpoint (design §6): a hash of all three.

    Remembered as `partition_of` is.
    """
    return blake2b(_scope_head(workspace, source) + leaf, digest_size=16).digest()[:8]


@lru_cache(maxsize=1024)
def _scope_head(workspace: str, source: str) -> bytes:
    """The part of a scope that a million touchpoints share, framed as `derived_id` frames it."""
    return _framed(("scope", workspace, source)) + LEAF_BYTES.to_bytes(4, "big")


def uuid7(at_ms: int, random: bytes) -> bytes:
    """A UUIDv7 (RFC 9562 §5.7) from epoch milliseconds and 10 random bytes; returns its 16 bytes."""
    if len(random) != 10:
        raise ValueError("uuid7 needs 10 random bytes")
    head = at_ms.to_bytes(6, "big")
    return head + bytes([0x70 | (random[0] & 0x0F), random[1], 0x80 | (random[2] & 0x3F)]) + random[3:]


def uuid_text(value: bytes) -> str:
    """16 bytes in the usual 8-4-4-4-12 form."""
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def day_of(at_ms: int) -> int:
    """UTC day number of epoch milliseconds (1970-01-01 is 0); floors, so times before 1970 are negative."""
    return at_ms // DAY_MS
