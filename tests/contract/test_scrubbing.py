"""After an erasure the database's own files hold nothing of what was deleted, through page splits and long values."""

from pathlib import Path
from random import Random

from services.profiles.scrubbing import Scrubber
from shared.clock import FrozenClock
from shared.database import execute, fetch
from tests.support.steps import fresh_database

PEOPLE = 1_200
ERASED = 100


async def test_nothing_is_left_of_deleted_values_in_the_files(tmp_path: Path) -> None:
    """Rows come in random order and change their length: pages split, and old bytes stay in their gaps."""
    dice = Random(7)
    async with fresh_database("", tmp_path, "profiles") as database:
        leaves = [dice.randbytes(16) for _ in range(PEOPLE)]
        put = """INSERT INTO personal VALUES ($1, $2, 'main', $3, 0, $1)
ON CONFLICT (leaf, field) DO UPDATE SET value = excluded.value"""
        for start in range(0, PEOPLE, 50):
            async with database.transaction() as connection:
                for number in range(start, start + 50):
                    for field, times in (("identifier", 1), ("trait:name", 1), ("text:a", dice.choice((1, 3, 300)))):
                        value = f"canary-{number:05d}-{field} ".encode() * times
                        await execute(connection, put, leaves[number], field, value)
                    older = dice.randrange(number + 1)
                    value = f"canary-{older:05d}-again ".encode() * dice.choice((1, 5, 40))
                    await execute(connection, put, leaves[older], "trait:name", value)
        gone = set(dice.sample(range(PEOPLE), ERASED))
        async with database.transaction() as connection:
            for number in gone:
                await execute(connection, "DELETE FROM personal WHERE leaf = $1", leaves[number])
            row = "INSERT INTO erasure VALUES ($1, 'main', $1, 0, 0, -1)"
            await execute(connection, row, b"e" * 16)

        scrubber = Scrubber(database, FrozenClock(), 0)
        assert await scrubber.scrub()
        assert not await scrubber.scrub()  # nothing waits for it any more

        files = b"".join(path.read_bytes() for path in tmp_path.glob("profiles.db*"))
        found = {number for number in range(PEOPLE) if f"canary-{number:05d}".encode() in files}
        assert found == set(range(PEOPLE)) - gone
        async with database.snapshot() as connection:
            assert len(await fetch(connection, "SELECT 1 FROM personal")) == 3 * (PEOPLE - ERASED)
            [(scrubbed_at,)] = await fetch(connection, "SELECT scrubbed_at FROM erasure")
        assert scrubbed_at > 0


async def test_an_erasure_that_is_not_folded_everywhere_waits(postgres_url: str, tmp_path: Path) -> None:
    async with fresh_database(postgres_url, tmp_path, "profiles") as database:
        scrubber = Scrubber(database, FrozenClock(), 0)
        async with database.transaction() as connection:
            await execute(connection, "INSERT INTO erasure VALUES ($1, 'main', $1, 0, 0, -1)", b"e" * 16)
            leaf = "INSERT INTO erasure_leaf VALUES ($1, $1, $1, -1, 0, 0, -1, 0, -1, 0)"
            await execute(connection, leaf, b"e" * 16)
        assert not await scrubber.scrub()
        async with database.transaction() as connection:
            await execute(connection, "UPDATE erasure_leaf SET erased_at = $1", 5)
        assert await scrubber.scrub()
        assert scrubber.done == 1
