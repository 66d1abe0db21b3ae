"""A process that appends until it is killed and prints each number once it is acknowledged: the ledger is the pipe.

python -m tests.support.appending sqlite|kafka PLACE TOPIC PARTITIONS NAME
"""

import asyncio
import sys

from shared.log.port import Outgoing
from tests.support.logs import open_log

CALLERS = 16


async def main(kind: str, place: str, topic: str, partitions: int, name: str) -> None:
    """Append `NAME:0`, `NAME:1`, … from concurrent callers, for ever."""
    log = open_log(kind, place)
    numbers = iter(range(1 << 62))

    async def caller() -> None:
        for number in numbers:
            await log.append(topic, [Outgoing(number % partitions, f"{name}:{number}".encode())])
            sys.stdout.write(f"{name}:{number}\n")
            sys.stdout.flush()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]))
