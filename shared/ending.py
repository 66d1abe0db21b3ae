"""Ending tasks: one that loses the first cancelling is cancelled again."""

import asyncio
from collections.abc import Iterable
from typing import Any

CANCEL_AGAIN_SECONDS = 10.0
"""Longer than any orderly end takes: a second cancelling would cut it short."""


async def ended(tasks: Iterable[asyncio.Task[Any]], again_seconds: float = CANCEL_AGAIN_SECONDS) -> None:
    """Cancel tasks and wait until each has cleaned up, whatever it ends with.

    A cancelling that meets a driver as it connects can come out as the driver's own error, after which a loop that goes
    on over errors would go on for ever.
    """
    given = list(tasks)
    left = set(given)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again_seconds)
    await asyncio.gather(*given, return_exceptions=True)  # what each ended with was its own affair


def is_being_cancelled() -> bool:
    """Whether somebody wants this task to end, and it has not."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
