"""`python -m services [COMMAND]`: what touches the house's own files, log and databases, running or not.

`raftar` speaks REST to a running house. What must work without one (start, first start, tables, backup, doctor) stands
here; `raftar run`, `backup`, `restore` and `doctor` are the same commands.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from services.all_in_one import AllInOneSettings, migrate, run
from services.backup.command import backup_command, restore_command
from services.doctor.command import doctor_command
from services.first_start import first_start
from services.repartition.command import repartition_command
from shared.clock import SystemClock
from shared.errors import RaftarError


class Call(NamedTuple):
    """One command as it was typed, and what it works with."""

    asked: argparse.Namespace
    settings: AllInOneSettings
    clock: SystemClock
    console: Console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 could not (the message says what to do), 2 wrong use."""
    asked = _parser().parse_args(arguments)
    try:
        call = Call(asked, AllInOneSettings(), SystemClock(), Console())
        code: int = asked.carry_out(call)
        return code
    except (RaftarError, ValueError, OSError) as error:
        Console(stderr=True).print(f"[red]Raftar stopped:[/red] {error}", highlight=False, soft_wrap=True)
        return 1


def _run(call: Call) -> int:
    return asyncio.run(run(call.settings, call.clock, call.console))


def _migrate(call: Call) -> int:
    asyncio.run(migrate(call.settings))
    call.console.print("All tables are of this version.")
    return 0


def _init(call: Call) -> int:
    started = asyncio.run(first_start(call.settings, call.clock, call.asked.new_keys))
    for line in started.done or ["nothing to do: this house was started before"]:
        call.console.print(line)
    if any("key" in line for line in started.done):
        call.console.print(f"public write key {started.access.write_key}", soft_wrap=True, highlight=False)
        call.console.print(f"secret key       {started.access.secret_key}", soft_wrap=True, highlight=False)
    return 0


def _backup(call: Call) -> int:
    asked = call.asked
    return backup_command(
        call.settings, asked.folder, call.clock, call.console, with_keys=asked.with_keys, as_json=asked.json
    )


def _restore(call: Call) -> int:
    asked, data_dir = call.asked, call.settings.data_dir
    return restore_command(
        asked.folder, data_dir, call.console, keys=asked.keys, only_check=asked.check, as_json=asked.json
    )


def _repartition(call: Call) -> int:
    asked = call.asked
    changes: dict[str, object] = {"partitions": asked.to, "data_dir": asked.folder}
    if asked.topic_prefix:
        changes["kafka_topic_prefix"] = asked.topic_prefix
    if asked.database_url:
        changes["database_url"] = asked.database_url
    return repartition_command(call.settings, changes, call.clock, call.console, asked.json)


def _doctor(call: Call) -> int:
    return doctor_command(call.settings, call.clock, call.console, call.asked.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services", description=__doc__)
    parser.set_defaults(carry_out=_run)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    house = commands.add_parser("run", help="migrate, first start, then the three services until Ctrl-C (default)")
    house.set_defaults(carry_out=_run)
    init = commands.add_parser("init", help="topics, workspace, keys, rules; does nothing the second time")
    init.add_argument("--new-keys", action="store_true", help="make a write key and a secret key in any case")
    init.set_defaults(carry_out=_init)
    tables = commands.add_parser("migrate", help="bring the databases to this version's tables")
    tables.set_defaults(carry_out=_migrate)
    _add_backup(commands)
    return parser


def _add_backup(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    backup = commands.add_parser("backup", help="one instant of an embedded house, running or not, into a new folder")
    backup.add_argument("folder", type=Path, metavar="FOLDER", help="a new or empty folder, not below the data folder")
    backup.add_argument("--with-keys", action="store_true", help="put the keys in too: then it opens everything")
    backup.set_defaults(carry_out=_backup)
    restore = commands.add_parser("restore", help="put a backup into an empty data folder")
    restore.add_argument("folder", type=Path, metavar="FOLDER", help="what `backup` wrote")
    restore.add_argument("--keys", type=Path, metavar="KEYS", help="the keys folder, where it was kept apart")
    restore.add_argument("--check", action="store_true", help="read and check the whole backup, write nothing")
    restore.set_defaults(carry_out=_restore)
    copy = commands.add_parser("repartition", help="copy a house at rest to another number of partitions")
    copy.add_argument("folder", type=Path, metavar="NEW_FOLDER", help="the new house's data folder, new or empty")
    copy.add_argument("--to", type=int, required=True, metavar="N", help="partitions of the new house, 1 to 1024")
    copy.add_argument(
        "--topic-prefix", default="", metavar="TEXT", help="on Kafka: stands before the new topics' names"
    )
    copy.add_argument("--database-url", default="", metavar="URL", help="on PostgreSQL: an empty database")
    copy.set_defaults(carry_out=_repartition)
    doctor = commands.add_parser("doctor", help="what is wrong with the house, running or not, and the next step")
    doctor.set_defaults(carry_out=_doctor)
    for command in (backup, restore, copy, doctor):
        command.add_argument("--json", action="store_true", help="one JSON document for scripts")


if __name__ == "__main__":
    sys.exit(main())
