"""Schedules: made from a seed, run, drained and checked; a failing one is made as small as it goes and printed."""

from collections.abc import Callable, Iterable, Sequence
from random import Random

from shared.topics import PROFILE_CHANGES, TOUCHPOINTS
from tests.simulation.checks import Broken, Watcher, check_profiles
from tests.simulation.checks_scoring import check_nothing_waits, check_scoring
from tests.simulation.driving import Crashed
from tests.simulation.house import Action, Simulation, shape_of

PROFILES = {
    "touch": 10, "again": 2, "link": 2, "unlink": 1, "erase": 0.5, "reinstate": 0.4, "tick": 4, "stop": 0.7,
    "fold": 10, "relay": 7, "acquire": 2, "crash_profiles": 1.5, "conflict": 0.5, "fail_append": 1, "flow": 1,
}  # fmt: skip
"""How often what happens where only profiles is asked about."""
SCORING = PROFILES | {
    "tick": 10, "history": 0.3, "finish": 0.3, "publish": 0.4, "read_rules": 0.5, "take": 1.5, "hear": 3, "decide": 4,
    "turn": 4, "emit": 3, "verdict": 1, "crash_scoring": 1.5, "fold": 5, "relay": 5, "flow": 9, "judge": 9,
}  # fmt: skip
"""The same for the whole house."""
LOSING = SCORING | {"lose": 2}
"""And its scoring database is lost now and then."""

ROUNDS_MAX = 40
LATER_MS = 15 * 60_000


def actions_of(dice: Random, weights: dict[str, float], count: int) -> list[Action]:
    """So many actions."""
    names = dice.choices(list(weights), list(weights.values()), k=count)
    return [Action(name, dice.randrange(1 << 32)) for name in names]


def run_schedule(
    seed: int, actions: Sequence[Action], *, scoring: bool, house: Callable[..., Simulation] = Simulation
) -> Simulation:
    """Run a schedule in the house of `seed`, drain it, and check everything. Raises Broken."""
    simulation = house(shape_of(Random(seed)), seed)
    watcher = Watcher(simulation)
    for action in actions:
        simulation.do(action)
    drain(simulation, scoring=scoring)
    truth = check_profiles(simulation, watcher)
    if scoring:
        check_scoring(simulation, truth)
        simulation.clock.advance(LATER_MS)
        drain(simulation, scoring=True)
        check_scoring(simulation, truth)
    return simulation


def schedule_of(seed: int, *, scoring: bool, losing: bool = False) -> list[Action]:
    """The actions of a seed."""
    dice = Random(seed ^ 0x5EED)
    return actions_of(
        dice, LOSING if losing else SCORING if scoring else PROFILES, dice.randint(20, 80 if scoring else 45)
    )


# --- draining -----------------------------------------------------------------------------------------------------


def drain(simulation: Simulation, *, scoring: bool) -> None:
    """Let everything come to rest: no more faults, the first seats own all, the others go on as zombies."""
    _mend(simulation)
    folding, deciding = simulation.folding[0], simulation.deciding[0]
    for partition in range(simulation.shape.partitions):
        folding.acquire(partition)
        if scoring:
            deciding.acquire(partition)
    _let_zombies_try(simulation)
    for _ in range(ROUNDS_MAX):
        simulation.clock.advance(300)
        _fold_round(simulation)
        if scoring:
            _decide_round(simulation)
        if _is_at_rest(simulation, scoring):
            break
    if scoring:
        check_nothing_waits(simulation)
    elif not _is_at_rest(simulation, scoring):
        raise Broken("no partition of touchpoints is stranded")


def _mend(simulation: Simulation) -> None:
    simulation.stopped = set()
    simulation.log.failure = ""
    simulation.profiles.fault = simulation.scoring.fault = None
    simulation.profiles.conflicts_in = 0
    if simulation.imports:
        simulation.do(Action("finish", 0))


def _let_zombies_try(simulation: Simulation) -> None:
    for seat in (*simulation.folding[1:], *simulation.deciding[1:]):
        for partition in list(seat.lanes):
            seat.fold(partition, 50)
            seat.turn(partition)
        seat.relay_all(pulse=True)


def _fold_round(simulation: Simulation) -> None:
    seat = simulation.folding[0]
    for partition in range(simulation.shape.partitions):
        while seat.fold(partition, 50):
            pass
    seat.relay_all(pulse=True)


def _decide_round(simulation: Simulation) -> None:
    seat = simulation.deciding[0]
    seat.read_definitions()
    for partition in range(simulation.shape.partitions):
        while seat.fold(partition, 50):
            pass
    seat.hear(1_000_000)
    for partition in range(simulation.shape.partitions):
        seat.turn(partition)
    seat.relay_all(pulse=False)


def _is_at_rest(simulation: Simulation, scoring: bool) -> bool:
    pairs = [(simulation.profiles, TOUCHPOINTS)] + ([(simulation.scoring, PROFILE_CHANGES)] if scoring else [])
    for database, topic in pairs:
        positions = {partition: claim.position for partition, claim in database.claims(topic).items()}
        if positions != simulation.log.ends(topic) or database.tables["outbox"]:
            return False
    heard = simulation.deciding[0].heard
    watermarks = [heard.watermark(partition) for partition in range(simulation.shape.partitions)]
    fresh = simulation.clock.now_ms() - 500
    return not scoring or all(watermark is not None and watermark >= fresh for watermark in watermarks)


# --- failing ------------------------------------------------------------------------------------------------------


def failure_of(
    seed: int, actions: Sequence[Action], *, scoring: bool, house: Callable[..., Simulation] = Simulation
) -> str:
    """What breaks, or ""."""
    try:
        run_schedule(seed, actions, scoring=scoring, house=house)
    except Crashed:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def minimised(
    seed: int, actions: Sequence[Action], *, scoring: bool, house: Callable[..., Simulation] = Simulation
) -> list[Action]:
    """A part of a failing schedule that still fails: chunks are removed as long as that can be done."""
    kept = list(actions)
    size = max(1, len(kept) // 2)
    while size:
        at = 0
        while at < len(kept):
            fewer = kept[:at] + kept[at + size :]
            if failure_of(seed, fewer, scoring=scoring, house=house):
                kept = fewer
            else:
                at += size
        size //= 2
    return kept


def first_failure(
    seeds: Iterable[int],
    *,
    scoring: bool,
    house: Callable[..., Simulation] = Simulation,
    minimise: bool = True,
    losing: bool = False,
) -> str:
    """The first failing seed with its smallest schedule, ready to be kept as a test; "" when all hold."""
    for seed in seeds:
        actions = schedule_of(seed, scoring=scoring, losing=losing)
        if failure := failure_of(seed, actions, scoring=scoring, house=house):
            kept = minimised(seed, actions, scoring=scoring, house=house) if minimise else actions
            what = failure_of(seed, kept, scoring=scoring, house=house)
            told = "".join(f"\n    Action({action.name!r}, {action.number})," for action in kept)
            return f"seed {seed}: {failure}\nsmallest: {what}\n  actions = [{told}\n  ]"
    return ""
