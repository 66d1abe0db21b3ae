"""The plan of a run: which fault happens to whom and when, from a seed alone; the same seed gives the same plan."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

EMBEDDED, KAFKA = "embedded", "kafka"
MODES = (EMBEDDED, KAFKA)
ROOMS = ("ingest", "profiles", "scoring")
FOLDING = ("profiles", "scoring")
BROKER, DATABASE = "broker", "database"
KILL, FREEZE, STOP, CUT, DISK, CLOCK = "kill", "freeze", "stop", "cut", "disk", "clock"

ROUND_KILLS = 18
"""So many kills come with one round of every other fault."""
SHARED_JUMPS_MAX = 12
"""Where all share a clock, so many jumps at most: they fill the last quarter."""
FREEZE_SECONDS_MAX = 15.0
TAKE_OVER_FREEZE_SECONDS = (8.0, 10.0)
"""Longer than a consumer group waits for a silent member (6 s), so that it is replaced while it sleeps."""
AWAY_SECONDS = (2.0, 4.0)
"""How long a disk is full, or a clock wrong."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to whom, `at` seconds after the load began.

    `seconds`: how long it lasts, where it lasts · `hours`: of a clock's jump.
    """

    at: float
    what: str
    whom: str
    seconds: float = 0.0
    hours: int = 0

    @property
    def kind(self) -> str:
        """What is counted together: `kill profiles`."""
        return f"{self.what} {self.whom}"

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        jumps = f" by {self.hours:+d} h" if self.hours else ""
        return f"{self.at:7.1f} s  {self.kind}{jumps}{lasts}"


def planned(seed: int, mode: str, kills: int, seconds: float, freeze_seconds_max: float) -> list[Fault]:
    """`kills` times kill -9, and with every ROUND_KILLS of them one of everything else, spread over `seconds`.

    Embedded, all services share one machine and so one clock; after a jump ahead its log stands in the future until
    the time has come, and decides nothing: there clocks jump in the last quarter. On Kafka each jumps by itself.
    """
    dice = random.Random(f"{seed} {mode}")
    faults = [Fault(0.0, KILL, whom) for whom in _killed(mode, kills)]
    for number in range(max(1, kills // ROUND_KILLS)):
        this_round = _round(dice, mode, freeze_seconds_max)
        faults += [one for one in this_round if mode == KAFKA or one.what != CLOCK or number < SHARED_JUMPS_MAX / 2]
    if mode == KAFKA:
        faults += [Fault(0.0, FREEZE, room, dice.uniform(*TAKE_OVER_FREEZE_SECONDS)) for room in FOLDING]
    dice.shuffle(faults)
    if mode == EMBEDDED:
        faults.sort(key=lambda fault: fault.what == CLOCK)
    width = 0.9 * seconds / len(faults)
    moments = sorted(0.05 * seconds + (n + dice.random()) * width for n in range(len(faults)))
    if mode == EMBEDDED:
        moments = _clocks_last(dice, moments, sum(fault.what == CLOCK for fault in faults), seconds)
    placed = [
        Fault(at, fault.what, fault.whom, fault.seconds, fault.hours) for at, fault in zip(moments, faults, strict=True)
    ]
    return sorted(placed, key=lambda fault: fault.at)


def _clocks_last(dice: random.Random, moments: Sequence[float], clocks: int, seconds: float) -> list[float]:
    """The same moments, but for the last `clocks` of them: those are spread over the last quarter."""
    width = 0.2 * seconds / clocks
    spread = sorted(0.75 * seconds + (n + 0.5 * dice.random()) * width for n in range(clocks))
    return [*list(moments)[: len(moments) - clocks], *spread]


def _killed(mode: str, kills: int) -> Iterator[str]:
    """Who is killed: every service alike; on Kafka one in twelve is the broker and one the database."""
    turns = ROOMS if mode == EMBEDDED else (*ROOMS, *FOLDING, *ROOMS, *FOLDING, BROKER, DATABASE)
    for n in range(kills):
        yield turns[n % len(turns)]


def _round(dice: random.Random, mode: str, freeze_seconds_max: float) -> list[Fault]:
    """One of everything that is no kill."""

    def frozen() -> float:
        return round(dice.uniform(1.0, freeze_seconds_max), 1)

    def away() -> float:
        return round(dice.uniform(*AWAY_SECONDS), 1)

    faults = [Fault(0.0, STOP, room) for room in ROOMS]
    faults += [Fault(0.0, FREEZE, room, frozen()) for room in ROOMS]
    if mode == EMBEDDED:
        faults += [Fault(0.0, DISK, room, away()) for room in ROOMS]
        faults += [Fault(0.0, CLOCK, "the machine", away(), hours) for hours in (1, -1)]
        return faults
    faults += [Fault(0.0, FREEZE, BROKER, frozen()), Fault(0.0, DISK, BROKER, away()), Fault(0.0, STOP, DATABASE)]
    faults += [Fault(0.0, CUT, DATABASE)] * 2
    faults += [Fault(0.0, CLOCK, room, away(), hours) for room in ROOMS for hours in (1, -1)]
    return faults


def told(plan: Sequence[Fault]) -> str:
    """The plan, one line a fault; a long one in short."""
    counted = Counter(fault.kind for fault in plan)
    short = ", ".join(f"{count} × {kind}" for kind, count in sorted(counted.items()))
    lines = [f"{len(plan)} faults in {plan[-1].at:.0f} s: {short}"]
    if len(plan) <= 120:
        lines += map(str, plan)
    return "\n".join(lines)
