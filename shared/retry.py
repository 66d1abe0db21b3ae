"""Waiting at start for what the house stands on: a service that comes up before its log or database waits for it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from shared.errors import Retryable

T = TypeVar("T")

_log = structlog.get_logger("waiting")


async def until_answered(ask: Callable[[], Awaitable[T]], what: str, pause_seconds: float = 0.5) -> T:
    """What `ask` gives, asked again after a pause for as long as it raises Retryable; any other error passes through.

    `what`: named in the log line of each refusal, e.g. "the log". Waits for ever: cancel it to give up.
    """
    while True:
        try:
            return await ask()
        except Retryable as error:
            _log.warning("waiting for an answer", what=what, reason=str(error))
            await asyncio.sleep(pause_seconds)
