"""The demo's plan brings crossings to the wanted millisecond and changes nothing else."""

import pytest

from services.demo.purchases import Bought, Plan, crossing, plan, purchases, touchpoints
from services.scoring.defaults import first_definition
from services.scoring.domain.definitions import Definition, definition_of
from shared.ids import DAY_MS

NOW_MS = 1_790_000_123_456
WANTED = [NOW_MS + 15_000 + n * 2_000 for n in range(6)]


@pytest.fixture(scope="module")
def bought() -> dict[str, list[Bought]]:
    return purchases()


@pytest.fixture(scope="module")
def definition() -> Definition:
    return definition_of(first_definition("main"))


@pytest.fixture(scope="module")
def planned(bought: dict[str, list[Bought]], definition: Definition) -> Plan:
    return plan(bought, NOW_MS, WANTED, definition)


def test_the_slice_is_what_the_readme_says(bought: dict[str, list[Bought]]) -> None:
    assert sum(map(len, bought.values())) == 1_885
    assert len(bought) == 604
    assert min(rows[-1].days_before for rows in bought.values()) == 0


def test_crossings_lie_exactly_where_they_are_wanted(
    bought: dict[str, list[Bought]], planned: Plan, definition: Definition
) -> None:
    assert sorted(planned.crossings.values()) == WANTED
    for customer, at_ms in planned.crossings.items():
        assert crossing(bought[customer], NOW_MS, planned.offsets_ms[customer], definition) == at_ms


def test_everything_happened_before_now_and_distances_are_whole_days(
    bought: dict[str, list[Bought]], planned: Plan
) -> None:
    times: dict[str, list[int]] = {}
    for touchpoint in touchpoints(bought, planned):
        times.setdefault(touchpoint["user_id"], []).append(touchpoint["occurred_at"])
    assert max(at for listed in times.values() for at in listed) <= NOW_MS
    assert min(NOW_MS - listed[-1] for listed in times.values()) < DAY_MS
    assert all((at - listed[0]) % DAY_MS == 0 for listed in times.values() for at in listed)


def test_ids_depend_on_the_row_alone(bought: dict[str, list[Bought]], planned: Plan, definition: Definition) -> None:
    later = plan(bought, NOW_MS + 5_000, [at + 5_000 for at in WANTED], definition)
    ids = [touchpoint["id"] for touchpoint in touchpoints(bought, planned)]
    assert ids == [touchpoint["id"] for touchpoint in touchpoints(bought, later)]
    assert len(set(ids)) == len(ids)


def test_fewer_crossings_when_the_rule_reaches_fewer(bought: dict[str, list[Bought]], definition: Definition) -> None:
    some = dict(list(bought.items())[:20])
    assert len(plan(some, NOW_MS, WANTED, definition).crossings) < len(WANTED)
