"""Record batches as a broker keeps them, taken apart. Pure.

The common batch (format 2, not compressed) is read here, since reading is what a folding service does all day; one that
a cluster keeps compressed is left to the client library.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from crc32c import crc32c
from kafka.errors import CorruptRecordError
from kafka.record import MemoryRecords

from shared.log.port import Record

_HEAD = struct.Struct(">qiibIhiqqqhii")
_LENGTH_FROM = 12
"""A batch's length counts the bytes behind its own field."""
_CRC_FROM = 21
_FORMAT = 2
_COMPRESSED, _STAMPED_BY_BROKER, _CONTROL = 0x07, 0x08, 0x20


class Opened(NamedTuple):
    """One batch: its records, where to read on, and the epoch of the leader that wrote it."""

    records: list[Record]
    next_position: int
    epoch: int


def opened(batches: bytes, position: int) -> Iterator[Opened]:
    """Every whole batch, without records before `position`. Raises CorruptRecordError."""
    at = 0
    while len(batches) - at >= _HEAD.size:
        head = _HEAD.unpack_from(batches, at)
        first, length, epoch, form, crc, attributes, last = head[:7]
        end = at + _LENGTH_FROM + length
        if end > len(batches):
            return
        if form != _FORMAT or crc32c(memoryview(batches)[at + _CRC_FROM : end]) != crc:
            raise CorruptRecordError(f"a batch at {first} is of format {form}, or not what was written")
        if attributes & _CONTROL:
            records: list[Record] = []
        elif attributes & _COMPRESSED:
            records = _by_library(batches[at:end], position)
        else:
            broker_stamp = head[8] if attributes & _STAMPED_BY_BROKER else None
            records = _records(batches[at + _HEAD.size : end], head[12], first, head[7], broker_stamp, position)
        yield Opened(records, first + last + 1, epoch)
        at = end


def _records(
    data: bytes, count: int, first: int, first_stamp: int, broker_stamp: int | None, position: int
) -> list[Record]:
    found: list[Record] = []
    at = 0
    for _ in range(count):
        length, at = _number(data, at)
        end = at + length
        stamp, at = _number(data, at + 1)  # behind the attributes, which are not used
        offset, at = _number(data, at)
        key_length, at = _number(data, at)
        key_end = at + max(0, key_length)
        key = data[at:key_end]
        value_length, at = _number(data, key_end)
        if first + offset >= position:
            recorded_at = first_stamp + stamp if broker_stamp is None else broker_stamp
            found.append(Record(first + offset, recorded_at, data[at : at + max(0, value_length)], key))
        at = end
    return found


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A varint at `at`, and where it ends."""
    byte = data[at]
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at + 1
    number = byte & 0x7F
    shift = 7
    while True:
        at += 1
        byte = data[at]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at + 1
        shift += 7


def _by_library(batch: bytes, position: int) -> list[Record]:
    return [
        Record(one.offset, one.timestamp, one.value or b"", one.key or b"")
        for found in MemoryRecords(batch)
        for one in found
        if one.offset >= position
    ]
