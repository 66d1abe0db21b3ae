"""Personal data sealed at the door, opened by profiles, and unreadable for ever once a private key is destroyed.

A *data key* (32 random bytes, XSalsa20-Poly1305) seals the personal fields of many records; it travels in each of
them, itself sealed to the workspace's named public key (X25519 sealed box). The door holds no private key.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import msgspec
from nacl.bindings import crypto_secretbox_easy
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox
from nacl.secret import SecretBox
from nacl.utils import random

from shared.errors import Poison
from shared.events import Sealed

PersonalFields = dict[int, dict[str, Any]]
"""Touchpoint index inside its record → personal fields."""

OPENED_DATA_KEYS_MAX = 4096
"""Data keys an Opener remembers: a year of hours for one door, or a day for 170."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PersonalFields)


class Sealer:
    """Seals for one workspace. A fresh data key every hour and process, so that no key seals without bound."""

    def __init__(self, key_name: str, public_key: bytes) -> None:
        """`public_key`: 32 bytes, as `Keyring.sealing_public` gives it with its name."""
        self._key_name = key_name
        self._to_public_key = SealedBox(PublicKey(public_key))
        self._hour: int | None = None
        self._sealed_data_key = b""
        self._data_key = b""
        self._nonces = count()

    def seal(self, personal: PersonalFields, hour: int) -> Sealed:
        """Seal the fields of one record. `hour`: epoch hours of the caller's clock; another hour means a new data key.

        Equal input gives different bytes each time: nonces count up under a key that only this process ever has, which
        is as safe as random ones and saves a call into the system a record.
        """
        if hour != self._hour:
            self._renew(hour)
        nonce = next(self._nonces).to_bytes(SecretBox.NONCE_SIZE, "big")
        box = nonce + crypto_secretbox_easy(_encoder.encode(personal), nonce, self._data_key)
        return Sealed(self._key_name, self._sealed_data_key, box)

    def _renew(self, hour: int) -> None:
        self._data_key = random(SecretBox.KEY_SIZE)
        self._nonces = count()
        self._sealed_data_key = bytes(self._to_public_key.encrypt(self._data_key))
        self._hour = hour


class Opener:
    """Opens what any door sealed to one of these private keys. Forgets the data keys used longest ago."""

    def __init__(self, private_keys: Mapping[str, bytes], remembered_max: int = OPENED_DATA_KEYS_MAX) -> None:
        """`private_keys`: name → 32 bytes, of as many workspaces as wished (names are unique across them)."""
        self._private = {name: SealedBox(PrivateKey(key)) for name, key in private_keys.items()}
        self._remembered_max = remembered_max
        self._boxes: OrderedDict[tuple[str, bytes], SecretBox] = OrderedDict()

    def open(self, sealed: Sealed) -> PersonalFields:
        """The personal fields by touchpoint index; {} where the private key was destroyed (or never was here).

        Raises Poison for a box or data key that does not open although its private key is here, or holds no fields.
        """
        if sealed.key not in self._private:
            return {}
        try:
            return _decoder.decode(self._box_of(sealed).decrypt(sealed.box))
        except (CryptoError, msgspec.MsgspecError, ValueError, TypeError) as error:
            raise Poison(f"personal data sealed to {sealed.key} does not open: {error}") from error

    def divide(self, sealed: Sealed, groups: Sequence[Sequence[int]]) -> list[Sealed | None]:
        """The field cut into one for each group of touchpoint indexes, renumbered from 0, under the same keys; None for
        a group without fields, and for all where the private key was destroyed. Raises Poison."""
        fields = self.open(sealed)
        pieces: list[Sealed | None] = []
        for group in groups:
            mine = {place: fields[index] for place, index in enumerate(group) if index in fields}
            if not mine:
                pieces.append(None)
                continue
            box = self._box_of(sealed).encrypt(_encoder.encode(mine), random(SecretBox.NONCE_SIZE))
            pieces.append(Sealed(sealed.key, sealed.data_key, bytes(box)))
        return pieces

    def _box_of(self, sealed: Sealed) -> SecretBox:
        known = (sealed.key, sealed.data_key)
        box = self._boxes.get(known)
        if box is None:
            box = SecretBox(self._private[sealed.key].decrypt(sealed.data_key))
            self._boxes[known] = box
            if len(self._boxes) > self._remembered_max:
                self._boxes.popitem(last=False)
        else:
            self._boxes.move_to_end(known)
        return box
