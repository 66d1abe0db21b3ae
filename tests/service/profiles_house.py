"""Profiles on a real SQLite log, with real keys, behind a real socket: what its service tests stand in."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from services.profiles.app import Owns, build, ownership_of
from services.profiles.settings import ProfilesSettings
from services.scoring.domain.alerts import Cause, CustomerForgotten
from services.scoring.domain.emitting import cloud_event
from services.scoring.domain.reasons import Reasons
from shared.access import KEY_RANDOM_BYTES, READ, SCOPES, SECRET_KEY, WRITE, WRITE_KEY, new_key
from shared.clock import FrozenClock
from shared.codec import encode
from shared.database import Database, fetch
from shared.definitions import DefinitionsFeed
from shared.events import Fact, Sealed, Touchpoint, TouchpointFailed, WorkspaceDefined
from shared.identifiers import leaf_of, normalise
from shared.ids import leaf_text, partition_of, uuid_text
from shared.keyring import Keyring
from shared.log.port import Outgoing
from shared.log.sqlite import SqliteLog
from shared.sealing import Sealer
from shared.topics import (
    CHURN_ALERTS,
    DEFINITIONS,
    SEGMENT_CHANGES,
    TOUCHPOINTS,
    TOUCHPOINTS_FAILED,
    topics,
)
from tests.builders import NOON_MS, a_record, a_touchpoint
from tests.service.ingest_house import listening
from tests.support.steps import fresh_database

PARTITIONS = 4
NOW_MS = NOON_MS + 86_400_000
MAIN, RIVAL = "main", "rival"
DEADLINE_SECONDS = 20.0


@dataclass(frozen=True)
class Person:
    """Identifiers as (kind, value), highest first, and their leaves."""

    identifiers: tuple[tuple[str, str], ...]
    leaves: tuple[bytes, ...]

    @property
    def id(self) -> str:
        """The id of the highest leaf."""
        return leaf_text(self.leaves[0])


@dataclass
class House:
    """A running profiles service and ways to feed it and look behind it."""

    client: httpx.AsyncClient
    log: SqliteLog
    database: Database
    feed: DefinitionsFeed
    clock: FrozenClock
    keyring: Keyring
    keys: dict[str, str] = field(default_factory=dict)

    async def get(self, path: str, key: str = MAIN, **query: Any) -> httpx.Response:
        """GET with one of `keys`."""
        return await self.client.get(path, params=query or None, headers=self._bearer(key))

    async def shown(self, path: str, key: str = MAIN, **query: Any) -> Any:
        """The body of a GET that must work."""
        answer = await self.get(path, key, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: Any, key: str = MAIN) -> httpx.Response:
        """POST a JSON body."""
        return await self.client.post(path, json=body, headers=self._bearer(key))

    def person(self, workspace: str = MAIN, **identifiers: str) -> Person:
        """Somebody by identifiers: `person(user="42", email="sara@example.com")`."""
        secret = self.keyring.leaf_secret(workspace)
        told = tuple((kind, normalise(kind, value, "IR")) for kind, value in identifiers.items())
        return Person(told, tuple(leaf_of(secret, workspace, kind, value) for kind, value in told))

    async def track(
        self,
        person: Person,
        *touchpoints: Touchpoint,
        workspace: str = MAIN,
        personal: Mapping[str, Any] | None = None,
        **record: Any,
    ) -> None:
        """Append touchpoints of one person as one record, their identifiers sealed as the door does."""
        own = tuple(msgspec.structs.replace(one, leaves=person.leaves) for one in touchpoints)
        fields = {"identifiers": [list(one) for one in person.identifiers], **(personal or {})}
        sealed = self.sealed(workspace, dict.fromkeys(range(len(own)), fields))
        fact = a_record(*own, workspace=workspace, received_at=self.clock.now_ms(), **record)
        await self.append(person.leaves[0], msgspec.structs.replace(fact, personal=sealed))

    def sealed(self, workspace: str, fields: dict[int, dict[str, Any]]) -> Sealed:
        """Fields sealed to the workspace's key."""
        return Sealer(*self.keyring.sealing_public(workspace)).seal(fields, 0)

    async def append(self, leaf: bytes, fact: Fact) -> None:
        """Append a fact to touchpoints on the partition of `leaf`."""
        await self.log.append(TOUCHPOINTS, [Outgoing(partition_of(leaf, PARTITIONS), encode(fact))])

    async def fail(self, item: bytes, workspace: str = MAIN, at: int = NOW_MS, path: str = "kind") -> str:
        """Append a refused item; returns its id as REST shows it."""
        sealed = self.sealed(workspace, {0: {"item": item}})
        identity = self.clock.new_id()
        fact = TouchpointFailed(workspace, "website", identity, at, "invalid_field", path, "is missing", sealed)
        await self.log.append(TOUCHPOINTS_FAILED, [Outgoing(identity[-1] % 4, encode(fact))])
        return uuid_text(identity)

    async def stage(self, person: Person, stage: str, sequence: int, workspace: str = MAIN, **data: Any) -> None:
        """Append a change of stage as scoring writes it."""
        told = {"stage": stage, "previous": "", "at": NOW_MS + sequence, "risk": None, "reasons": {}} | data
        await self._decide(SEGMENT_CHANGES, "raftar.segment.changed", person, sequence, workspace, told)

    async def alert(
        self, person: Person, alert_id: str, revision: int, state: str, sequence: int = 1, **data: Any
    ) -> None:
        """Append a revision of an alert as scoring writes it."""
        told = {"alert_id": alert_id, "revision": revision, "state": state, "emitted_at": NOW_MS + sequence} | data
        await self._decide(CHURN_ALERTS, "raftar.alert.raised", person, sequence, MAIN, told)

    async def _decide(
        self, topic: str, kind: str, person: Person, sequence: int, workspace: str, data: dict[str, Any]
    ) -> None:
        event = {
            "specversion": "1.0",
            "id": f"{kind} {sequence}",
            "source": f"raftar/scoring/{workspace}",
            "type": kind,
            "subject": person.id,
            "time": "2023-11-16T12:00:00.000Z",
            "workspace": workspace,
            "sequence": sequence,
            "data": {"customer": person.id, **data},
        }
        value = msgspec.json.encode(event)
        await self.log.append(topic, [Outgoing(partition_of(person.leaves[0], PARTITIONS), value)])

    async def erased(self, leaf: bytes, sequence: int) -> None:
        """Append what scoring says of an erased customer."""
        for topic in (SEGMENT_CHANGES, CHURN_ALERTS):
            at = NOW_MS + sequence
            gone = CustomerForgotten(at, sequence, Cause("erased"), 1, None, Reasons(), topic=topic)
            value = cloud_event(MAIN, leaf, gone, at)
            await self.log.append(topic, [Outgoing(partition_of(leaf, PARTITIONS), value)])

    async def discard(self, failed_id: str) -> None:
        """Discard a failed event and wait until it is."""
        answer = await self.client.delete(f"/v1/failed/{failed_id}", headers=self._bearer(MAIN))
        assert answer.status_code == 200, answer.text
        await self.settle()

    async def settle(self) -> None:
        """Wait until everything in the log is folded and nothing waits in the outbox."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await self._is_settled():
                await asyncio.sleep(0.01)

    async def rows(self, statement: str, *values: Any) -> list[Any]:
        """Rows straight from the database."""
        async with self.database.snapshot() as connection:
            return await fetch(connection, statement, *values)

    async def _is_settled(self) -> bool:
        """Outbox and checkpoints of one instant: a fold that fills the one moves the other."""
        async with self.database.snapshot() as connection:
            if await fetch(connection, "SELECT seq FROM outbox LIMIT 1"):
                return False
            rows = await fetch(connection, "SELECT topic, partition, position FROM checkpoint")
        folded = {(row[0], row[1]): row[2] for row in rows}
        for topic in (TOUCHPOINTS, TOUCHPOINTS_FAILED, SEGMENT_CHANGES, CHURN_ALERTS):
            for partition, bounds in (await self.log.bounds(topic)).items():
                if folded.get((topic, partition), -1) < bounds.end:
                    return False
        return True

    def _bearer(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys.get(key, key)}"} if key else {}


@contextlib.asynccontextmanager
async def house(folder: Path, url: str = "", owns: Owns | None = None) -> AsyncIterator[House]:
    """Profiles with the workspaces `main` and `rival`; keys `main`, `rival` (all scopes), `reader`, `website`.

    `owns`: another ownership than all partitions.
    """
    clock = FrozenClock(NOW_MS)
    settings = ProfilesSettings(data_dir=folder, partitions=PARTITIONS, _env_file=None)
    log = SqliteLog(folder / "log", clock)
    await log.ensure(topics(PARTITIONS))
    keyring = Keyring(folder)
    keys, facts = _access(keyring)
    await log.append(DEFINITIONS, [Outgoing(0, encode(fact)) for fact in facts])
    async with fresh_database(url, folder, "profiles") as database:
        feed = DefinitionsFeed(log, clock)
        ownership = owns or ownership_of(settings, clock)
        app = build(
            settings, log=log, database=database, clock=clock, keyring=keyring, feed=feed, ownership=ownership
        )  # fmt: skip
        try:
            async with (
                listening(app) as port,
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client,
            ):
                yield House(client, log, database, feed, clock, keyring, keys)
        finally:
            await log.close()


def _access(keyring: Keyring) -> tuple[dict[str, str], list[Fact]]:
    facts: list[Fact] = []
    for workspace in (MAIN, RIVAL):
        keyring.create(workspace)
        facts.append(WorkspaceDefined(workspace, "UTC", "IR", *keyring.sealing_public(workspace), NOW_MS))
    wanted: Sequence[tuple[str, str, str, tuple[str, ...]]] = (
        (MAIN, SECRET_KEY, MAIN, SCOPES),
        (RIVAL, SECRET_KEY, RIVAL, SCOPES),
        ("reader", SECRET_KEY, MAIN, (READ,)),
        ("website", WRITE_KEY, MAIN, (WRITE,)),
    )
    keys = {}
    for number, (name, kind, workspace, scopes) in enumerate(wanted):
        fact, keys[name] = new_key(kind, workspace, "erp", scopes, "", NOW_MS, bytes([number]) * KEY_RANDOM_BYTES)
        facts.append(fact)
    return keys, facts


def page_view(at: int = NOON_MS, **more: Any) -> Touchpoint:
    """A page view; the house puts its person in."""
    return a_touchpoint("page_viewed", at=at, id=more.pop("id", f"page {at} {sorted(more.items())}"), **more)
