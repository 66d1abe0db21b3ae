"""`make chaos`: the long form. Prints its plan, then the figures, and what was broken if anything was.

KILLS=1000 EVENTS=1000000 MODE=embedded|kafka|both SEED=… PLANT=… ; the folder of a broken run is kept.
"""

import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.chaos.plan import EMBEDDED, KAFKA, MODES
from tests.chaos.plants import PLANTS
from tests.chaos.run import Course, endured, long, standing
from tests.support.kafka_broker import Broker, BrokerMissingError, fetch_jars
from tests.support.postgres_process import PostgresProcess

SHARES = {EMBEDDED: 0.6, KAFKA: 0.4}
"""Of kills and events when both modes run: a kill costs more on Kafka."""


def main() -> None:
    """Run what the variables ask for; exit code 1 when a promise was broken, 2 when it cannot run here."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        courses = _courses()
        broken = [course.mode for course in courses if not _kept(course)]
    except (BrokerMissingError, ImportError, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if broken:
        sys.exit(f"broken: {', '.join(broken)} (SEED={courses[0].seed})")


def _courses() -> list[Course]:
    kills, events = _number("KILLS", 1_000), _number("EVENTS", 1_000_000)
    seed = _number("SEED", random.randrange(1, 1 << 31))
    mode, plant = os.environ.get("MODE") or "both", os.environ.get("PLANT") or ""
    if mode not in (*MODES, "both"):
        raise ValueError(f"MODE={mode}: say embedded, kafka or both")
    if plant and plant not in PLANTS:
        known = "\n".join(f"  {name:<30} {one.room} {one.does}" for name, one in PLANTS.items())
        raise ValueError(f"PLANT={plant}: there are\n{known}")
    shares = {mode: 1.0} if mode in MODES else SHARES
    if KAFKA in shares:
        fetch_jars()  # said before an hour of the other mode
    courses = [long(one, seed, max(1, int(kills * share)), int(events * share)) for one, share in shares.items()]
    return [replace(course, plant=plant) for course in courses]


def _number(variable: str, otherwise: int) -> int:
    return int(os.environ.get(variable) or otherwise)


def _kept(course: Course) -> bool:
    """Whether a house keeps its promises through the course."""
    folder = Path(tempfile.mkdtemp(prefix="raftar-chaos-"))
    folder.chmod(0o755)  # as root, PostgreSQL runs as another user
    whole = False
    try:
        with (
            _stores(course, folder) as (broker, database),
            standing(course, folder / "house", broker, database) as all_,
        ):
            report = asyncio.run(endured(*all_, course))
        print(f"{report.figures}\n{report.failed or 'every promise was kept'}", flush=True)
        whole = not report.failed
    except AssertionError as error:
        print(f"seed {course.seed}: {error}", flush=True)
    finally:
        if whole:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"what the house left behind: {folder}", flush=True)
    return whole


@contextmanager
def _stores(course: Course, folder: Path) -> Iterator[tuple[Broker | None, PostgresProcess | None]]:
    """Broker and database of a course on Kafka, started; nothing for an embedded one."""
    if course.mode == EMBEDDED:
        yield None, None
        return
    broker, database = Broker(folder / "kafka"), PostgresProcess(folder / "postgres")
    try:
        broker.start()
        database.start()
        yield broker, database
    finally:
        broker.kill9()
        database.kill9()


if __name__ == "__main__":
    main()
