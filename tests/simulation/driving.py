"""Running async code by hand: nothing here waits, no event loop, no thread. What suspends does so only where we say."""

from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Crashed(Exception):
    """Planned: the process, or its connection, ends at this very call."""


@coroutine
def pause() -> Generator[None, None, None]:
    """Give the turn back to the schedule; whatever it does next happens in between."""
    yield


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of async code that never really waits. Raises what it raises; AssertionError when it would wait."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise AssertionError("the code under simulation waited for something")
