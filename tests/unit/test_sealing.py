"""Sealing: what the door sealed opens with the private key, reads as absent without it, and corruption is poison."""

import msgspec
import pytest
from nacl.public import PrivateKey, PublicKey, SealedBox
from nacl.secret import SecretBox

from shared.errors import Poison
from shared.events import Sealed
from shared.sealing import Opener, PersonalFields, Sealer

PERSONAL: PersonalFields = {
    0: {"identifiers": [["email", "sara@example.com"]]},
    3: {"text": {"comment": "سلام"}, "n": 1.5, "x": None},
}


@pytest.fixture
def private() -> PrivateKey:
    return PrivateKey(bytes(range(32)))


@pytest.fixture
def sealer(private: PrivateKey) -> Sealer:
    return Sealer("k1", bytes(private.public_key))


@pytest.fixture
def opener(private: PrivateKey) -> Opener:
    return Opener({"k1": bytes(private)})


def test_what_was_sealed_opens_again(sealer: Sealer, opener: Opener) -> None:
    assert opener.open(sealer.seal(PERSONAL, hour=1)) == PERSONAL
    assert opener.open(sealer.seal({}, hour=1)) == {}


def test_nothing_is_readable_from_outside_and_equal_input_gives_different_boxes(sealer: Sealer) -> None:
    first, second = sealer.seal(PERSONAL, 1), sealer.seal(PERSONAL, 1)
    assert first.box != second.box
    assert b"sara" not in msgspec.msgpack.encode(first)


def test_one_data_key_an_hour_and_process(private: PrivateKey, sealer: Sealer, opener: Opener) -> None:
    first, same, later = (sealer.seal(PERSONAL, hour) for hour in (1, 1, 2))
    other_process = Sealer("k1", bytes(private.public_key)).seal(PERSONAL, 1)
    assert first.data_key == same.data_key
    assert len({first.data_key, later.data_key, other_process.data_key}) == 3
    for sealed in (first, same, later, other_process):
        assert opener.open(sealed) == PERSONAL


def test_a_destroyed_key_reads_as_absent(sealer: Sealer) -> None:
    sealed = sealer.seal(PERSONAL, 1)
    assert Opener({}).open(sealed) == {}
    assert Opener({"k2": bytes(PrivateKey.generate())}).open(sealed) == {}


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("at", [0, 30, -1])
def test_a_changed_box_or_data_key_is_poison(sealer: Sealer, opener: Opener, at: int) -> None:
    sealed = sealer.seal(PERSONAL, 1)
    opener.open(sealed)
    for broken in (
        msgspec.structs.replace(sealed, box=_flipped(sealed.box, at % len(sealed.box))),
        msgspec.structs.replace(sealed, data_key=_flipped(sealed.data_key, at % len(sealed.data_key))),
        msgspec.structs.replace(sealed, box=sealed.box[:10]),
        msgspec.structs.replace(sealed, box=b""),
        msgspec.structs.replace(sealed, data_key=b""),
    ):
        with pytest.raises(Poison, match="k1"):
            opener.open(broken)


@pytest.mark.parametrize("inside", [b"", b"\xc1", msgspec.msgpack.encode([1]), msgspec.msgpack.encode({"a": {}})])
def test_a_box_that_opens_to_something_else_is_poison(private: PrivateKey, opener: Opener, inside: bytes) -> None:
    data_key = bytes(32)
    sealed_key = bytes(SealedBox(PublicKey(bytes(private.public_key))).encrypt(data_key))
    sealed = Sealed("k1", sealed_key, bytes(SecretBox(data_key).encrypt(inside)))
    with pytest.raises(Poison):
        opener.open(sealed)


def test_a_data_key_of_the_wrong_length_is_poison(private: PrivateKey, opener: Opener) -> None:
    sealed_key = bytes(SealedBox(PublicKey(bytes(private.public_key))).encrypt(b"short"))
    with pytest.raises(Poison):
        opener.open(Sealed("k1", sealed_key, bytes(60)))


def test_forgotten_data_keys_open_again(private: PrivateKey) -> None:
    opener = Opener({"k1": bytes(private)}, remembered_max=2)
    sealer = Sealer("k1", bytes(private.public_key))
    sealed = [sealer.seal({0: {"hour": hour}}, hour) for hour in range(5)]
    for hour in (0, 1, 2, 3, 4, 0, 4, 2):
        assert opener.open(sealed[hour]) == {0: {"hour": hour}}
