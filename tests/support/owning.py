"""A worker process that joins a group and prints how many partitions it has, until it is killed.

python -m tests.support.owning BOOTSTRAP GROUP TOPIC
"""

import asyncio
import sys

from shared.clock import SystemClock
from shared.log.kafka_ownership import KafkaOwnership


async def main(bootstrap: str, group: str, topic: str) -> None:
    """Join and tell, for ever."""
    ownership = KafkaOwnership(bootstrap, group, [topic], SystemClock())
    await ownership.start()
    told = -1
    while True:
        count = len(ownership.assigned())
        if count != told:
            print(count, flush=True)
            told = count
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
