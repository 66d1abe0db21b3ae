"""Children are kept alive and ended by their handles: tried on small processes of our own."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import psutil

from services.supervisor import Child, Supervisor, ending
from shared.clock import SystemClock

SLEEPER = "import time; time.sleep(600)"


def a_child(code: str) -> Child:
    return Child("sleeper", (sys.executable, "-c", code), dict(os.environ))


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_killed_child_comes_back_under_a_new_process_and_it_is_said() -> None:
    said: list[str] = []
    supervisor = Supervisor([a_child(SLEEPER)], SystemClock(), said.append)
    supervisor.start()
    await until(lambda: supervisor.process_id("sleeper") is not None)
    first = supervisor.process_id("sleeper")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: supervisor.process_id("sleeper") not in (None, first))
    assert said == ["sleeper ended (signal SIGKILL); starting it again in 0.5 s"]
    assert supervisor.restarts == {"sleeper": 1}
    await supervisor.stop()


async def test_stop_ends_every_child_by_its_own_id() -> None:
    supervisor = Supervisor([a_child(SLEEPER)], SystemClock(), print)
    supervisor.start()
    await until(lambda: supervisor.process_id("sleeper") is not None)
    process_id = supervisor.process_id("sleeper")
    await asyncio.wait_for(supervisor.stop(), 5)
    assert process_id is not None
    assert not psutil.pid_exists(process_id)


async def test_stop_while_a_child_waits_to_be_started_again_is_prompt() -> None:
    said: list[str] = []
    supervisor = Supervisor([a_child("raise SystemExit(3)")], SystemClock(), said.append)
    supervisor.start()
    await until(lambda: len(said) >= 2)
    assert "(code 3)" in said[0]
    assert "in 1 s" in said[1]
    await asyncio.wait_for(supervisor.stop(), 0.5)


def test_children_end_when_the_parent_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT.format(sleeper=SLEEPER)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    child.wait(timeout=10)


_PARENT = """
import asyncio, os, sys
from services.supervisor import Child, Supervisor
from shared.clock import SystemClock

async def main():
    sleeper = Child("sleeper", (sys.executable, "-c", "{sleeper}"), dict(os.environ))
    supervisor = Supervisor([sleeper], SystemClock(), print)
    supervisor.start()
    while supervisor.process_id("sleeper") is None:
        await asyncio.sleep(0.01)
    print(supervisor.process_id("sleeper"), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_what_a_child_prints_is_heard_line_by_line_to_its_last_word() -> None:
    heard: list[tuple[str, bytes]] = []
    code = "import sys; print('one', flush=True); print('two', file=sys.stderr, flush=True); print('x' * (2 << 20))"
    supervisor = Supervisor([a_child(code)], SystemClock(), print, lambda name, line: heard.append((name, line)))
    supervisor.start()
    await until(lambda: supervisor.restarts["sleeper"] > 0)
    await asyncio.wait_for(supervisor.stop(), 5)
    assert heard[:2] == [("sleeper", b"one\n"), ("sleeper", b"two\n")]
    assert b"left out" in heard[2][1]


def test_endings_in_words() -> None:
    assert ending(3) == "code 3"
    assert ending(-9) == "signal SIGKILL"
    assert ending(-250) == "signal 250"
