"""Logs for the contract suite: one place (a folder or a broker) that several logs, and processes, can be opened on."""

import asyncio
import itertools
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.clock import SystemClock
from shared.log.kafka import KafkaLog
from shared.log.port import Log, Outgoing, Record, Topic
from shared.log.sqlite import SqliteLog

PROJECT = Path(__file__).resolve().parents[2]
_numbers = itertools.count()


def open_log(kind: str, place: str, **settings: Any) -> Log:
    """A log of this kind on a folder (sqlite) or on bootstrap servers (kafka)."""
    if kind == "sqlite":
        return SqliteLog(Path(place), SystemClock(), **settings)
    return KafkaLog(place, SystemClock(), **settings)


class Place:
    """Where logs of one kind live; everything opened here is closed with the test."""

    def __init__(self, kind: str, place: str) -> None:
        self.kind, self.place = kind, place
        self._open: list[Log] = []
        self._processes: list[subprocess.Popen[str]] = []

    def open(self, **settings: Any) -> Log:
        """One more log here."""
        self._open.append(open_log(self.kind, self.place, **settings))
        return self._open[-1]

    async def topic(self, log: Log, partitions: int = 4, **settings: Any) -> str:
        """A fresh topic of its own name."""
        name = f"t{next(_numbers)}-{secrets.token_hex(4)}"
        await log.ensure([Topic(name, partitions, **settings)])
        return name

    def appending(self, topic: str, partitions: int, name: str) -> "subprocess.Popen[str]":
        """A process that appends until it is killed; its output is the ledger of what was acknowledged."""
        command = [sys.executable, "-m", "tests.support.appending", self.kind, self.place, topic, str(partitions), name]
        self._processes.append(subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True))
        return self._processes[-1]

    async def close(self) -> None:
        """End the processes and close the logs."""
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        await asyncio.gather(*(log.close() for log in self._open))


def values(partition: int, *texts: str) -> list[Outgoing]:
    """Records of one partition."""
    return [Outgoing(partition, text.encode()) for text in texts]


async def read_to_end(log: Log, topic: str, partition: int, **limits: int) -> list[Record]:
    """Everything readable of one partition."""
    bounds = (await log.bounds(topic))[partition]
    position, records = bounds.earliest, list[Record]()
    while position < bounds.end:
        batch = await log.read(topic, partition, position, wait_seconds=10, **limits)
        assert batch.records, f"nothing at {position} although the end is {bounds.end}"
        records += batch.records
        position = batch.next_position
    return records


async def read_all(log: Log, topic: str) -> dict[int, list[Record]]:
    """Everything readable of a topic, by partition."""
    partitions = await log.bounds(topic)
    found: Sequence[list[Record]] = await asyncio.gather(*(read_to_end(log, topic, one) for one in partitions))
    return dict(zip(partitions, found, strict=True))


def texts(found: Mapping[int, Sequence[Record]]) -> list[str]:
    """The values of all partitions as text."""
    return [record.value.decode() for records in found.values() for record in records]
