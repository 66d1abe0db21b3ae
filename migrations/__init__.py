"""Schema of both databases, one line of versions per service: `migrations/<service>/NNNN_what.py`, run by Alembic."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from shared.database import Database

SERVICES = ("profiles", "scoring")


async def migrate(database: Database, service: str, revision: str = "head") -> None:
    """Bring the database of `service` to `revision`; makes its PostgreSQL schema first. Safe to run again."""
    async with database.transaction() as connection:
        if not database.is_sqlite:
            # One migration at a time, and as long as it takes: the steps' time-outs are not for it.
            await connection.execute(text("SET LOCAL transaction_timeout = 0"))
            await connection.execute(text("SET LOCAL lock_timeout = 0"))
            await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('raftar migrations'))"))
            await connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {_known(service)}"))
        await connection.run_sync(_upgrade, service, revision)


def head(service: str) -> str:
    """The revision of this version's tables of `service`."""
    return str(ScriptDirectory.from_config(_config(service)).get_current_head())


def revisions(service: str) -> set[str]:
    """Every revision this version knows for the tables of `service`."""
    return {script.revision for script in ScriptDirectory.from_config(_config(service)).walk_revisions()}


def _known(service: str) -> str:
    if service not in SERVICES:
        raise ValueError(f"no database of {service!r}; there are {', '.join(SERVICES)}")
    return service


def _upgrade(connection: Connection, service: str, revision: str) -> None:
    config = _config(service)
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _config(service: str) -> Config:
    config = Config()
    here = Path(__file__).parent
    config.set_main_option("script_location", str(here))
    config.set_main_option("version_locations", str(here / _known(service)))
    config.set_main_option("path_separator", "os")
    return config
