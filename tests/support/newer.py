"""`python -m tests.support.newer ROOM`: a service of the version after this one, as far as the log can tell.

Profile changes are of version 2 (with the upcaster that a new version brings), and beside each goes a fact of a kind
that the version before does not know.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

import msgspec

from shared import relay
from shared.events import UPCASTERS, ProfileChanged
from shared.log.port import Log
from shared.outbox import Pending
from shared.topics import PROFILE_CHANGES

STRANGE = msgspec.msgpack.encode(("customer.greeted", 1, ["main"]))
"""A fact of a kind this version does not know."""

_append = relay.append_chunk


async def append_with_strange(log: Log, chunk: Sequence[Pending]) -> dict[tuple[str, int], int]:
    """Append a chunk, and a strange fact behind each profile change."""
    told = [
        one for row in chunk for one in ([row, row._replace(value=STRANGE)] if row.topic == PROFILE_CHANGES else [row])
    ]
    return await _append(log, told)


def become_newer() -> None:
    """This process writes and reads the newer version from here on."""
    ProfileChanged.VERSION = 2
    UPCASTERS[ProfileChanged.NAME, 1] = lambda body: body
    relay.append_chunk = append_with_strange


if __name__ == "__main__":
    become_newer()
    import_module(f"services.{sys.argv[1]}.__main__").main()
