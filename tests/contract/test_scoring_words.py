"""What people say about alerts, and what erasing leaves of them: the scoring step on both databases."""

from typing import Any

import pytest

from services.scoring.decide import told, write
from services.scoring.domain.step import Book
from services.scoring.domain.verdicts import FALSE_ALARM, acknowledge, judge
from shared.errors import NotFound
from tests.support.decisions import Scoring, bought, changed, complained, erased, leaf_on, s

ANA = leaf_on(0, "ana")


async def test_a_person_acknowledges_and_judges(scoring: Scoring) -> None:
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)))
    await scoring.reach(s(61))
    [alert_id] = await scoring.alerts()

    async def say(word: Any, *more: str) -> None:
        def tell(book: Book) -> None:
            book.apply(ANA, lambda decision, snapshot, now: word(decision, alert_id, *more, s(65), snapshot, now))

        projection = scoring.projection
        async with projection.store.transaction() as transaction:
            book = await told(transaction, projection.setting(), {ANA: "main"}, [alert_id], tell, projection.tally)
            await write(transaction, book)

    await say(acknowledge)
    await say(acknowledge)
    await say(judge, FALSE_ALARM)
    assert (await scoring.told(of="alert"))[1:] == ["alert.acknowledged r2 @65", "alert.judged r3 @65"]
    assert await scoring.state_of_alerts() == {(ANA, "silence", "judged")}
    alert_id = bytes(16)
    with pytest.raises(NotFound):
        await say(acknowledge)
    await scoring.reach(s(900))
    assert len(await scoring.alerts()) == 1


async def test_erasing_takes_rows_and_texts(scoring: Scoring) -> None:
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)))
    await scoring.reach(s(61))
    await scoring.tell(changed(ANA, 2, 62, bought(ANA, 0), complained(ANA, 62)), erased(ANA, 3, 63))
    row = (await scoring.rows())[ANA]
    assert (row.state, row.due_at, row.decision.alerts, row.decision.stage) == (b"", None, (), "")
    alerts = await scoring.alerts()
    assert {alert.state for alert in alerts.values()} == {"retracted"}
    for alert in alerts.values():
        assert b'"parts":[]' in alert.body or alert.body == b""
        assert b'"kind":"complained","occurred_at"' not in alert.body
    await scoring.reach(s(900))
    await scoring.tell(changed(ANA, 4, 900, bought(ANA, 900)))
    assert (await scoring.told(ANA))[-1] == "segment.changed fresh @900"
