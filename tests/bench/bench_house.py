"""`python -m tests.bench.bench_house [--kafka]`: what a whole house needs: start-up, memory, disk, installed size.

Start-up is from launching a process to its first "ready"; the whole house as `raftar run` starts it, tables and keys
included, on an empty folder. Memory is resident, idle and after TOUCHPOINTS touchpoints; disk is what files grew by,
checkpointed, divided by them.
"""

import argparse
import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import psutil
import uvloop
from packaging.requirements import Requirement

from services import local_access
from tests.bench.bench_react import ITEMS, LOOK_SECONDS, lag, view
from tests.e2e.rules import rules
from tests.load.posting import Crowd, template
from tests.support.house import Ground, House, Service, closing
from tests.support.kafka_broker import PROJECT, Broker, free_ports

TOUCHPOINTS = 20_000
MIB = 1 << 20


def installed_mib() -> float:
    """What a fresh environment with the project's own dependencies takes, by the metadata of what is installed here."""
    return sum(_size(path) for path in _closure()) / MIB


def _closure() -> set[Path]:
    """Files of all distributions that the project needs, and what these need, without the development extras."""
    wanted, seen, files = ["raftar"], set(), set[Path]()
    while wanted:
        name = wanted.pop()
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform
        if name != "raftar":
            files |= {Path(str(file.locate())) for file in found.files or ()}
        for text in found.requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                wanted.append(needed.name)
    return files


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def whole_start_seconds(folder: Path) -> float:
    """From `python -m services run` on an empty folder until every service is ready."""
    ports = dict(zip(("INGEST", "PROFILES", "SCORING"), free_ports(3), strict=True))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAFTAR_")}
    environment |= {f"RAFTAR_{room}_PORT": str(port) for room, port in ports.items()}
    environment["RAFTAR_DATA_DIR"] = str(folder)
    began = time.monotonic()
    house = subprocess.Popen(
        [sys.executable, "-m", "services", "run"],
        env=environment,
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        services = [Service(room, room.lower(), port, Ground(folder)) for room, port in ports.items()]
        while not all(service.ready() for service in services):
            assert house.poll() is None, "the house ended by itself"
            time.sleep(0.02)
        assert local_access.load(folder) is not None
        return time.monotonic() - began
    finally:
        house.terminate()
        house.wait(30)


def ready_seconds(service: Service) -> float:
    """From launching a prepared service to its first "ready"."""
    began = time.monotonic()
    service.launch()
    while not service.ready():
        assert service.alive(), service.printed()
        time.sleep(0.01)
    return time.monotonic() - began


def memory(house: House) -> dict[str, float]:
    """Resident MiB of every process."""
    return {name: psutil.Process(service.pid).memory_info().rss / MIB for name, service in house.services.items()}


async def fill(house: House, touchpoints: int) -> int:
    """Post so many touchpoints and wait until they are folded; how many were taken."""
    [door] = house.of("ingest")
    taken = 0
    async with Crowd(door.port, template(house.access.write_key, ITEMS, view)) as crowd:
        while taken < touchpoints:
            taken += ITEMS * len((await crowd.press(4, 1.0)).of(200))
    await asyncio.sleep(LOOK_SECONDS)
    while await lag(house) > 0:
        await asyncio.sleep(0.1)
    return taken


def disk(folder: Path) -> dict[str, int]:
    """Bytes of every database and topic, with nothing left in write-ahead logs."""
    sizes = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".db", ".sqlite"):
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            connection.close()
            sizes[path.name] = path.stat().st_size
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", action="store_true", help="on a broker of its own instead of embedded")
    parser.add_argument("--touchpoints", type=int, default=TOUCHPOINTS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, bootstrap = Path(name), ""
        (folder / "house").mkdir()
        print(f"installed (dependencies, without development extras): {installed_mib():.0f} MiB")
        if chosen.kafka:
            broker = Broker(folder / "kafka")
            stack.callback(broker.kill9)
            broker.start()
            bootstrap = broker.bootstrap
        else:
            (folder / "whole").mkdir()
            print(f"the whole house on an empty folder is ready after {whole_start_seconds(folder / 'whole'):.1f} s")
        house = House(Ground(folder / "house", bootstrap=bootstrap), rules("1h"))
        uvloop.run(house.prepare())
        with closing(house):
            for service in house.services.values():
                print(f"start   {service.name:<12} ready after {ready_seconds(service):5.2f} s")
            idle, before = memory(house), disk(folder / "house")
            taken = uvloop.run(fill(house, chosen.touchpoints))
            for process, mib in memory(house).items():
                print(f"memory  {process:<12} {idle[process]:6.1f} MiB idle, {mib:6.1f} after {taken:,} touchpoints")
        total = 0.0
        for file, size in disk(folder / "house").items():
            grown = (size - before.get(file, 0)) / taken
            total += grown
            print(f"disk    {file:<28} {grown:8.1f} bytes a touchpoint")
        print(f"disk    {'all':<28} {total:8.1f} bytes a touchpoint ({ITEMS} a request)")


if __name__ == "__main__":
    main()
