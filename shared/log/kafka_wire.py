"""Bytes of the few requests that are spoken to brokers without the client library, and of their answers. Pure.

Through the client library an append cost eight times the processor time and fifteen times the wait: it runs on threads
of its own, and a woken thread must wait for its turn. Every version named here is understood by brokers from 2.1 on;
Kafka keeps versions of its protocol for many years, and whoever opens a connection asks whether it still does.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from crc32c import crc32c

CLIENT_ID = b"raftar"


class Request(NamedTuple):
    """A kind of request and the version of it that is spoken here."""

    name: str
    key: int
    version: int


PRODUCE = Request("Produce", 0, 7)
FETCH = Request("Fetch", 1, 4)
LIST_OFFSETS = Request("ListOffsets", 2, 2)
METADATA = Request("Metadata", 3, 4)
SASL_HANDSHAKE = Request("SaslHandshake", 17, 1)
API_VERSIONS = Request("ApiVersions", 18, 0)
EPOCH_ENDS = Request("OffsetForLeaderEpoch", 23, 2)
SASL_AUTHENTICATE = Request("SaslAuthenticate", 36, 1)
NEEDED = (PRODUCE, FETCH, LIST_OFFSETS, METADATA, EPOCH_ENDS)
TOPIC_IDS = Request("Metadata", 3, 10)
"""What the client library asks for a topic's id by, which tells one log from another."""
EARLIEST, END = -2, -1
"""What can be asked by `list_offsets`."""


class Leaders(NamedTuple):
    """Who leads what: node → (host, port), (topic, partition) → node."""

    addresses: dict[int, tuple[str, int]]
    leaders: dict[tuple[str, int], int]


class Produced(NamedTuple):
    """What became of one partition's batch. `code` 0: in the log from position `first` on."""

    topic: str
    partition: int
    code: int
    first: int


class Fetched(NamedTuple):
    """What one partition brought: whole batches, and perhaps the start of one more."""

    topic: str
    partition: int
    code: int
    batches: bytes


class Offset(NamedTuple):
    """A partition's position that was asked for."""

    topic: str
    partition: int
    code: int
    position: int


_HEADER = struct.Struct(">ihhih")
_BATCH_HEAD = struct.Struct(">qiibI")
_BATCH_TAIL = struct.Struct(">hiqqqhii")
_PARTITION_HEAD = struct.Struct(">ii")
_PRODUCE_HEAD = struct.Struct(">hhii")
_PRODUCED = struct.Struct(">ihqqq")
_FETCH_HEAD = struct.Struct(">iiiib")
_FETCH = struct.Struct(">iqi")
_FETCHED = struct.Struct(">ihqqi")
_ABORTED_BYTES = 16
_LISTED = struct.Struct(">ihqq")
_NO_LENGTH = b"\x01"  # the varint of -1: null
_BATCH_LENGTH_FROM = _BATCH_HEAD.size - 12  # counted from behind its own field on


def frame(request: Request, correlation: int, body: bytes) -> bytes:
    """A request as it goes over the wire."""
    size = _HEADER.size - 4 + len(CLIENT_ID) + len(body)
    return b"".join((_HEADER.pack(size, request.key, request.version, correlation, len(CLIENT_ID)), CLIENT_ID, body))


def varint(number: int) -> bytes:
    """A number of at least zero as Kafka's records write it: zigzag, seven bits a byte."""
    left = number << 1
    if left < 0x80:
        return bytes((left,))
    if left < 0x4000:
        return bytes((left & 0x7F | 0x80, left >> 7))
    written = bytearray()
    while left >= 0x80:
        written.append(left & 0x7F | 0x80)
        left >>= 7
    written.append(left)
    return bytes(written)


def record_batch(records: Sequence[tuple[bytes, bytes]], stamp_ms: int) -> bytes:
    """Values with their keys (b"": none) as one batch, format 2, without compression or headers."""
    parts: list[bytes] = []
    for number, (value, key) in enumerate(records):
        key_part = varint(len(key)) + key if key else _NO_LENGTH
        # attributes and the difference of time are zero each; so is the number of headers
        front = b"\0\0" + varint(number) + key_part + varint(len(value))
        parts += (varint(len(front) + len(value) + 1), front, value, b"\0")
    count = len(records)
    tail = _BATCH_TAIL.pack(0, count - 1, stamp_ms, stamp_ms, -1, -1, -1, count) + b"".join(parts)
    return _BATCH_HEAD.pack(0, _BATCH_LENGTH_FROM + len(tail), -1, 2, crc32c(tail)) + tail


def produce(batches: Mapping[str, Sequence[tuple[int, bytes]]], timeout_ms: int) -> bytes:
    """Topic → its (partition, batch); every replica in sync must have them before the answer."""
    parts = [_PRODUCE_HEAD.pack(-1, -1, timeout_ms, len(batches))]
    for topic, partitions in batches.items():
        parts += (_text(topic), _count(len(partitions)))
        for partition, batch in partitions:
            parts += (_PARTITION_HEAD.pack(partition, len(batch)), batch)
    return b"".join(parts)


def produced(answer: bytes) -> tuple[list[Produced], int]:
    """What became of each batch, and for how many milliseconds the broker wants to be left alone."""
    reading = _Reading(answer)
    found: list[Produced] = []
    for _ in range(reading.count()):
        topic = reading.text()
        for partition, code, first, _stamp, _start in reading.rows(_PRODUCED, reading.count()):
            found.append(Produced(topic, partition, code, first))
    return found, reading.number(">i")


def fetch(wanted: Mapping[str, Sequence[tuple[int, int]]], wait_ms: int, bytes_max: int, of_one_max: int) -> bytes:
    """Topic → its (partition, position): answered as soon as there is anything, else after `wait_ms`."""
    parts = [_FETCH_HEAD.pack(-1, wait_ms, 1, bytes_max, 0), _count(len(wanted))]
    for topic, partitions in wanted.items():
        parts += (_text(topic), _count(len(partitions)))
        parts += (_FETCH.pack(partition, position, of_one_max) for partition, position in partitions)
    return b"".join(parts)


def fetched(answer: bytes) -> tuple[list[Fetched], int]:
    """What each partition brought, and for how many milliseconds the broker wants to be left alone."""
    reading = _Reading(answer)
    throttle_ms = reading.number(">i")
    found: list[Fetched] = []
    for _ in range(reading.count()):
        topic = reading.text()
        for _ in range(reading.count()):
            partition, code, _end, _stable, aborted = reading.packed(_FETCHED)
            reading.skip(_ABORTED_BYTES * max(0, aborted))
            found.append(Fetched(topic, partition, code, reading.take(max(0, reading.count()))))
    return found, throttle_ms


def list_offsets(wanted: Mapping[str, Iterable[int]], which: int) -> bytes:
    """Topic → its partitions: asks for their `EARLIEST` position, or their `END`, the high watermark."""
    parts = [struct.pack(">ib", -1, 0), _count(len(wanted))]
    for topic, partitions in wanted.items():
        rows = [struct.pack(">iq", partition, which) for partition in partitions]
        parts += (_text(topic), _count(len(rows)), *rows)
    return b"".join(parts)


def offsets(answer: bytes) -> list[Offset]:
    """The answer to `list_offsets`."""
    reading = _Reading(answer)
    reading.number(">i")
    found: list[Offset] = []
    for _ in range(reading.count()):
        topic = reading.text()
        for partition, code, _stamp, position in reading.rows(_LISTED, reading.count()):
            found.append(Offset(topic, partition, code, position))
    return found


def epoch_end(topic: str, partition: int, epoch: int) -> bytes:
    """Asks where the records end that leaders up to this epoch wrote."""
    return b"".join((_count(1), _text(topic), _count(1), struct.pack(">iii", partition, -1, epoch)))


def epoch_ended(answer: bytes) -> Offset:
    """The answer to `epoch_end`."""
    reading = _Reading(answer)
    reading.number(">i")
    reading.count()
    topic = reading.text()
    reading.count()
    code, partition, _epoch, position = reading.row(">hiiq")
    return Offset(topic, partition, code, position)


def metadata(topics: Iterable[str]) -> bytes:
    """Asks who leads these topics; never makes one."""
    names = [_text(topic) for topic in topics]
    return b"".join((_count(len(names)), *names, b"\0"))


def leaders(answer: bytes) -> Leaders:
    """The answer to `metadata`. Partitions without a leader are absent."""
    reading = _Reading(answer)
    reading.number(">i")  # for how long to be left alone
    addresses = {}
    for _ in range(reading.count()):
        node, host, port = reading.number(">i"), reading.text(), reading.number(">i")
        reading.text()  # its rack
        addresses[node] = host, port
    reading.text()  # the cluster's id
    reading.number(">i")  # its controller
    found = Leaders(addresses, {})
    for _ in range(reading.count()):
        reading.number(">h")  # an error: then it has no partitions here
        topic = reading.text()
        reading.number(">b")  # whether it is the cluster's own
        for _ in range(reading.count()):
            _code, partition, leader = reading.row(">hii")
            for _replicas_then_those_in_sync in range(2):
                reading.skip(4 * reading.count())
            if leader >= 0:
                found.leaders[topic, partition] = leader
    return found


def versions(answer: bytes) -> dict[int, tuple[int, int]]:
    """Key of a request → the lowest and the highest version that the broker understands."""
    reading = _Reading(answer)
    reading.number(">h")
    return {key: (low, high) for key, low, high in reading.rows(struct.Struct(">hhh"), reading.count())}


def lacking(understood: Mapping[int, tuple[int, int]], needed: Sequence[Request] = NEEDED) -> list[str]:
    """What is needed and this broker does not understand, for people."""
    return [
        f"{one.name} v{one.version}"
        for one in needed
        if not understood.get(one.key, (1, 0))[0] <= one.version <= understood.get(one.key, (1, 0))[1]
    ]


def sasl_handshake(mechanism: str) -> bytes:
    """Names the way in which we shall prove who we are."""
    return _text(mechanism)


def sasl_mechanisms(answer: bytes) -> tuple[int, list[str]]:
    """Error code, and the ways that the broker knows."""
    reading = _Reading(answer)
    return reading.number(">h"), [reading.text() for _ in range(reading.count())]


def sasl_authenticate(token: bytes) -> bytes:
    """One step of the proof."""
    return _count(len(token)) + token


def sasl_authenticated(answer: bytes) -> tuple[int, str, bytes, int]:
    """Error code and message, the broker's token, and for how many milliseconds the proof holds (0: for ever)."""
    reading = _Reading(answer)
    code, message = reading.number(">h"), reading.text()
    token = reading.take(max(0, reading.count()))
    return code, message, token, reading.number(">q")


class _Reading:
    """Takes fields off an answer, one after another. Raises struct.error where it is too short."""

    def __init__(self, answer: bytes) -> None:
        self._answer, self._at = answer, 0

    def row(self, form: str) -> tuple[int, ...]:
        found = struct.unpack_from(form, self._answer, self._at)
        self._at += struct.calcsize(form)
        return found

    def packed(self, form: struct.Struct) -> tuple[int, ...]:
        found = form.unpack_from(self._answer, self._at)
        self._at += form.size
        return found

    def rows(self, form: struct.Struct, count: int) -> Iterator[tuple[int, ...]]:
        return form.iter_unpack(self.take(count * form.size))

    def number(self, form: str) -> int:
        return self.row(form)[0]

    def count(self) -> int:
        return self.number(">i")

    def text(self) -> str:
        return self.take(max(0, self.number(">h"))).decode()

    def skip(self, size: int) -> None:
        self._at += size

    def take(self, size: int) -> bytes:
        self._at += size
        return self._answer[self._at - size : self._at]


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded


def _count(count: int) -> bytes:
    return struct.pack(">i", count)
