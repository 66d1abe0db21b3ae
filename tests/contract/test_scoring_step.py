"""The scoring step decides the same on SQLite and on PostgreSQL: equal rows, equal alerts, equal bytes sent."""

from pathlib import Path

import pytest

from shared.errors import Fenced
from tests.builders import a_touchpoint
from tests.support.decisions import (
    Scoring,
    a_definition,
    absorbed,
    bought,
    changed,
    complained,
    erased,
    leaf_on,
    parked,
    s,
)
from tests.support.steps import PARTITIONS, fresh_database

ANA, BEN, CLIO = leaf_on(0, "ana"), leaf_on(1, "ben", rank=1), leaf_on(2, "clio", rank=4)


# --- time -----------------------------------------------------------------------------------------------------------


async def test_time_flips_at_the_exact_crossing_and_not_before_the_watermark_is_past_it(scoring: Scoring) -> None:
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)))
    assert await scoring.told() == ["segment.changed fresh @0"]
    await scoring.reach(s(10))
    assert len(await scoring.told()) == 1
    await scoring.reach(s(10) + 1)
    assert (await scoring.told())[1:] == ["segment.changed quiet @10"]
    await scoring.reach(s(60))
    assert len(await scoring.told()) == 2

    await scoring.reach(s(60) + 1)

    assert (await scoring.told())[2:] == ["segment.changed gone @60", "alert.raised r1 @60"]
    data = (await scoring.events())[-1]["data"]
    assert (data["crossed_at"], data["raised_at"], data["opened_at"]) == (s(60), s(60), s(0))
    await scoring.reach(s(900))
    assert len(await scoring.told()) == 4


async def test_a_crossing_that_lies_behind_is_told_late_with_both_times(scoring: Scoring) -> None:
    """A purchase heard of 100 s late: the crossing is exact, the alert is stamped just after what was settled."""
    await scoring.reach(s(100))
    await scoring.tell(changed(ANA, 1, 100, bought(ANA, 0)))
    await scoring.reach(s(101))
    raised = [event["data"] for event in await scoring.events() if event["type"] == "raftar.alert.raised"]
    assert [(data["crossed_at"], data["raised_at"]) for data in raised] == [(s(60), s(100))]


async def test_a_change_first_takes_what_time_brought_before_it(scoring: Scoring) -> None:
    """Scoring was down while the silence crossed and ended: with the watermark heard, both are told, in order."""
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)))
    scoring.hear(s(80))
    await scoring.tell(changed(ANA, 2, 70, bought(ANA, 0), bought(ANA, 70)))
    assert await scoring.told() == [
        "segment.changed fresh @0", "segment.changed quiet @10", "segment.changed gone @60", "alert.raised r1 @60",
        "alert.recovered r2 @70", "segment.changed fresh @70",
    ]  # fmt: skip
    assert (await scoring.rows())[ANA].decision.settled == s(70) - 1


async def test_a_silence_that_ended_before_it_was_settled_raises_nothing_and_is_counted(scoring: Scoring) -> None:
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)))
    await scoring.reach(s(30))
    await scoring.tell(changed(ANA, 2, 70, bought(ANA, 0), bought(ANA, 70)))
    assert not await scoring.told(of="alert")
    assert scoring.projection.tally.counts.unsettled_silences == 1
    assert (await scoring.rows())[ANA].decision.settled == s(30) - 1


async def test_nothing_is_settled_past_the_watermark_of_the_own_partition(scoring: Scoring) -> None:
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)), changed(BEN, 1, 0, bought(BEN, 0)))
    await scoring.reach(s(500), 0)
    assert {row[0] for row in await scoring.state_of_alerts()} == {ANA}
    rows = await scoring.rows()
    assert rows[ANA].decision.settled == s(500) - 1
    assert rows[BEN].decision.settled == -1
    await scoring.reach(s(500), 1)
    assert {row[0] for row in await scoring.state_of_alerts()} == {ANA, BEN}


async def test_a_wave_of_alerts_fires_in_pages(scoring: Scoring) -> None:
    """2,000 customers on one partition cross in one second: each is told once, and a page takes no second start."""
    crowd = [leaf_on(3, f"crowd{n}-") for n in range(2_000)]
    await scoring.tell(*(changed(who, 1, 0, bought(who, n / 2_000)) for n, who in enumerate(crowd)))
    restarts = scoring.projection.tally.restarts
    await scoring.reach(s(62))
    assert scoring.projection.tally.fired == 2_000
    assert scoring.projection.tally.restarts == restarts
    assert len(await scoring.alerts()) == 2_000
    assert len(await scoring.told(of="alert.raised")) == 2_000


# --- facts ----------------------------------------------------------------------------------------------------------


async def test_facts_are_judged_at_once_without_a_watermark(scoring: Scoring) -> None:
    await scoring.tell(changed(ANA, 1, 5, complained(ANA, 4)))
    assert await scoring.told() == ["alert.raised r1 @5", "segment.changed prospect @5"]
    assert (await scoring.rows())[ANA].due_at == s(4) + 90 * 86_400_000


async def test_a_batch_may_raise_more_alerts_than_the_step_has_attempts(scoring: Scoring) -> None:
    """New alert ids are asked for together: a wave of complaints is one start, not one for each."""
    crowd = [leaf_on(3, f"upset{n}-") for n in range(300)]
    await scoring.tell(*(changed(who, 1, n, complained(who, n)) for n, who in enumerate(crowd)))
    assert len(await scoring.alerts()) == 300
    assert scoring.projection.tally.restarts == 0


async def test_a_purchase_recovers_and_the_next_silence_is_another_alert(scoring: Scoring) -> None:
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)))
    await scoring.reach(s(61))
    await scoring.tell(changed(ANA, 2, 100, bought(ANA, 0), bought(ANA, 100)))
    assert (await scoring.told(of="alert"))[1:] == ["alert.recovered r2 @100"]
    await scoring.reach(s(161))
    assert (await scoring.told(of="alert"))[2:] == ["alert.raised r1 @160"]
    assert await scoring.state_of_alerts() == {(ANA, "silence", "recovered"), (ANA, "silence", "open")}


async def test_a_late_purchase_takes_the_alert_back_and_its_cancellation_raises_it_again(scoring: Scoring) -> None:
    first, late = bought(ANA, 0), bought(ANA, 30, "late")
    await scoring.tell(changed(ANA, 1, 0, first))
    await scoring.reach(s(61))
    await scoring.tell(changed(ANA, 2, 62, first, late))
    assert (await scoring.told(of="alert"))[1:] == ["alert.retracted r2 @62"]
    await scoring.reach(s(70))
    cancelled = a_touchpoint("refunded", at=s(71), leaf=ANA, order_id="late")
    await scoring.tell(changed(ANA, 3, 71, first, late, cancelled))
    await scoring.reach(s(72))
    assert (await scoring.told(of="alert"))[2:] == ["alert.raised r3 @70"]
    assert len(await scoring.alerts()) == 1


async def test_a_late_purchase_that_leaves_the_silence_true_amends_it(scoring: Scoring) -> None:
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)))
    await scoring.reach(s(70))
    await scoring.tell(changed(ANA, 2, 71, bought(ANA, 0), bought(ANA, 5)))
    assert (await scoring.told(of="alert"))[1:] == ["alert.amended r2 @71"]
    data = (await scoring.events())[-1]["data"]
    assert (await scoring.events())[-1]["type"] == "raftar.alert.amended"
    assert (data["crossed_at"], data["raised_at"]) == (s(65), s(60))


async def test_repeated_and_outdated_versions_change_nothing(scoring: Scoring) -> None:
    first, second = bought(ANA, 0), complained(ANA, 1)
    newest = changed(ANA, 5, 1, first, second)
    await scoring.tell(newest)
    before = await scoring.contents()
    await scoring.tell(newest, changed(ANA, 4, 9, first), erased(ANA, 5, 9), absorbed(ANA, BEN, 5, 9))
    after = await scoring.contents()
    assert (after[1], after[2]) == (before[1], before[2])
    assert [row for row in after[0] if row[0] == ANA] == before[0]
    assert scoring.projection.tally.counts.outdated == 4


async def test_a_batch_and_one_by_one_decide_the_same(scoring: Scoring, tmp_path: Path) -> None:
    """Whatever a batch brings together, its records are taken one after the other."""
    story = [changed(ANA, n + 1, n * 40, *(bought(ANA, m * 40) for m in range(n + 1))) for n in range(6)]
    scoring.hear(s(1_000))
    await scoring.tell(*story)
    async with fresh_database("", tmp_path / "single", "scoring") as other:
        single = Scoring(other)
        await single.acquire(0)
        single.clock = scoring.clock
        single.projection.clock = scoring.clock
        for fact in story:
            single.hear(s(1_000))
            await single.tell(fact)
        assert (await single.contents())[1:] == (await scoring.contents())[1:]


# --- parked -----------------------------------------------------------------------------------------------------------


async def test_a_parked_customer_is_disarmed_until_a_change_can_be_carried(scoring: Scoring) -> None:
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)), parked(ANA, 2, 5))
    row = (await scoring.rows())[ANA]
    assert (row.due_at, row.parked) == (None, "too large")
    await scoring.reach(s(80))
    assert not await scoring.told(of="alert")
    await scoring.tell(changed(ANA, 3, 90, bought(ANA, 0), bought(ANA, 50)))
    await scoring.reach(s(109))
    assert not await scoring.told(of="alert"), "the snapshot before missed the purchase that parked the customer"
    await scoring.reach(s(111))
    assert await scoring.told(of="alert") == ["alert.raised r1 @110"]


async def test_a_decision_that_throws_parks_its_customer_and_the_others_go_on(scoring: Scoring) -> None:
    broken = changed(ANA, 2, 1, bought(ANA, 0), new=0)
    unreadable = type(broken)("main", ANA, 2, s(1), b"\x01\xc1")
    other = leaf_on(0, "neighbour")
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)), unreadable, changed(other, 1, 1, bought(other, 1)))
    rows = await scoring.rows()
    assert rows[ANA].parked.startswith("ValueError")
    assert (rows[ANA].version, rows[ANA].due_at) == (2, None)
    assert rows[other].due_at == s(11)
    assert scoring.projection.tally.counts.parked == 1
    await scoring.reach(s(100))
    assert {row[0] for row in await scoring.state_of_alerts()} == {other}

    await scoring.tell(changed(ANA, 3, 101, bought(ANA, 0), bought(ANA, 101)))

    assert (await scoring.rows())[ANA].parked == ""
    assert (await scoring.told(ANA))[1:] == []
    await scoring.reach(s(170))
    assert "alert.raised r1 @161" in await scoring.told(ANA)


async def test_a_newer_state_stops_the_partition_and_parks_nobody(scoring: Scoring) -> None:
    """Code that is too old must not disarm every customer it reads."""
    from shared.errors import NewerVersion

    known = changed(ANA, 1, 0, bought(ANA, 0))
    with pytest.raises(NewerVersion):
        await scoring.tell(type(known)("main", ANA, 1, s(0), b"\xff" + known.state[1:]))
    assert await scoring.rows() == {}
    await scoring.tell(known)


# --- history ----------------------------------------------------------------------------------------------------------


async def test_history_holds_and_a_live_complaint_is_heard_meanwhile(scoring: Scoring) -> None:
    await scoring.tell(changed(ANA, 1, 0, complained(ANA, -5), bought(ANA, -5), import_id="i1"))
    assert await scoring.told() == []
    assert (await scoring.rows())[ANA].due_at is None
    story = [bought(ANA, -5), complained(ANA, 2)]
    await scoring.tell(changed(ANA, 2, 2, *story))
    assert await scoring.told() == ["alert.raised r1 @2"]
    await scoring.reach(s(500))
    assert len(await scoring.told()) == 1


async def test_released_history_sets_stages_and_raises_only_what_is_to_come(scoring: Scoring) -> None:
    long_gone, nearly = leaf_on(0, "gone"), leaf_on(0, "nearly")
    await scoring.tell(changed(long_gone, 1, 0, bought(long_gone, -900), import_id="i1"))
    await scoring.tell(changed(nearly, 1, 0, bought(nearly, -30), import_id="i1"))
    await scoring.pass_import("i1", 0, 1, 2)
    await scoring.reach(s(5))
    assert await scoring.told() == []
    await scoring.pass_import("i1", 3)
    await scoring.reach(s(6))
    stages = [(event["subject"], event["data"]["stage"], event["data"]["cause"]) for event in await scoring.events()]
    assert sorted(stages) == sorted([(long_gone.hex(), "gone", "backfill"), (nearly.hex(), "quiet", "backfill")])
    await scoring.reach(s(30) + 1)
    assert await scoring.state_of_alerts() == {(nearly, "silence", "open")}
    await scoring.reach(s(900))
    assert await scoring.state_of_alerts() == {(nearly, "silence", "open")}


async def test_a_customer_imported_while_nothing_was_heard_is_released_under_the_version_in_force(
    scoring: Scoring,
) -> None:
    """Else version 1 would pass over a silence that version 2, long in force, has not reached yet."""
    scoring.definitions.append(a_definition(2, s(-500), silent_after="90s"))
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, -70), import_id="i1"))
    await scoring.pass_import("i1", *range(PARTITIONS))
    await scoring.reach(s(5))
    assert [event["data"]["definition_version"] for event in await scoring.events()] == [2]
    await scoring.reach(s(20) + 1)
    assert await scoring.told(of="alert") == ["alert.raised r1 @20"]


async def test_a_root_whose_own_change_was_not_read_stays_held(scoring: Scoring) -> None:
    """It took the hold of an absorbed customer; what it is itself is not known yet, so nothing is said of it."""
    await scoring.tell(changed(BEN, 1, 0, bought(BEN, -30), import_id="i1"), absorbed(BEN, ANA, 2, 1))
    await scoring.pass_import("i1", *range(PARTITIONS))
    await scoring.reach(s(5))
    assert await scoring.told() == []
    await scoring.tell(changed(ANA, 1, 1, bought(BEN, -30), new=0, leaves={ANA: 0, BEN: 1}))
    await scoring.reach(s(6))
    assert await scoring.told() == ["segment.changed quiet @5.999"]
    assert (await scoring.rows())[ANA].due_at == s(30)


# --- definitions ------------------------------------------------------------------------------------------------------


async def test_a_new_version_decides_from_its_instant_on_and_arms_the_rest_anew(scoring: Scoring) -> None:
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)), changed(BEN, 1, 30, bought(BEN, 30)))
    await scoring.reach(s(31))
    scoring.definitions.append(a_definition(2, s(65), silent_after="40s"))
    await scoring.reach(s(65))
    assert {row.decision.version for row in (await scoring.rows()).values()} == {1}
    assert await scoring.state_of_alerts() == {(ANA, "silence", "open")}
    await scoring.reach(s(66))
    rows = await scoring.rows()
    assert {row.decision.version for row in rows.values()} == {2}
    assert rows[BEN].due_at == s(70)
    await scoring.reach(s(80))
    assert await scoring.told(BEN, of="alert") == ["alert.raised r1 @70"]


async def test_a_new_version_raises_nothing_for_the_past(scoring: Scoring) -> None:
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)))
    await scoring.reach(s(41))
    stages = [{"stage": "present", "enter": ["silence < 20s"]}, {"stage": "away", "enter": []}]
    scoring.definitions.append(a_definition(2, s(45), silent_after="40s", stages=stages))
    await scoring.reach(s(500))
    assert await scoring.told(of="alert") == []
    newest = (await scoring.events())[-1]["data"]
    assert (newest["stage"], newest["cause"], newest["at"]) == ("away", "definition_changed", s(45))


async def test_a_version_that_trusts_less_sees_other_purchases_from_its_instant_on(scoring: Scoring) -> None:
    """Which purchases count is up to the version: the customer is read anew under it."""
    trusted = [bought(ANA, 0)]
    profile = changed(ANA, 1, 0, *trusted)
    await scoring.tell(profile)
    await scoring.tell(changed(ANA, 2, 5, bought(ANA, 0), bought(ANA, 5), trust=0))
    await scoring.reach(s(6))
    scoring.definitions.append(a_definition(2, s(20), purchase_trust_min="secret"))
    await scoring.reach(s(30))
    row = (await scoring.rows())[ANA]
    assert (row.decision.stage, row.due_at) == ("prospect", None)
    await scoring.reach(s(900))
    assert await scoring.told(of="alert") == []


async def test_stale_definitions_fire_nothing(scoring: Scoring) -> None:
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)))
    scoring.rules_age_seconds = 2.1
    await scoring.reach(s(100))
    await scoring.tell(changed(ANA, 2, 101, bought(ANA, 0), complained(ANA, 100)))
    assert await scoring.told() == ["segment.changed fresh @0", "alert.raised r1 @101"]
    scoring.rules_age_seconds = 0.0
    await scoring.reach(s(102))
    assert (await scoring.told(of="alert"))[1:] == ["alert.raised r1 @60"]


# --- owners -----------------------------------------------------------------------------------------------------------


async def test_a_turn_of_a_replaced_worker_is_refused(scoring: Scoring) -> None:
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)))
    old = scoring.claims[0]
    scoring.hear(s(100), 0)
    await scoring.projection.store.acquire("profile-changes", 0, "test")
    with pytest.raises(Fenced):
        await scoring.projection.turn(old)
    assert await scoring.told(of="alert") == []
    await scoring.acquire(0)
    scoring.clock.advance(2_000)
    await scoring.turn(0)
    assert await scoring.told(of="alert") == [], "a new owner has heard nothing yet"
    await scoring.reach(s(100), 0)
    assert await scoring.told(of="alert") == ["alert.raised r1 @60"]
