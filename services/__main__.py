"""`python -m services [run|init|migrate]`: the house, its first start, its tables."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from rich.console import Console

from services.all_in_one import AllInOneSettings, migrate, run
from services.first_start import first_start
from shared.clock import SystemClock
from shared.errors import RaftarError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 could not (the message says what to do), 2 wrong use."""
    asked = _parser().parse_args(arguments)
    settings, clock, console = AllInOneSettings(), SystemClock(), Console()
    try:
        if asked.command == "migrate":
            asyncio.run(migrate(settings))
            console.print("All tables are of this version.")
            return 0
        if asked.command == "init":
            return asyncio.run(_init(settings, clock, console, asked.new_keys))
        return asyncio.run(run(settings, clock, console))
    except (RaftarError, ValueError) as error:
        Console(stderr=True).print(f"[red]Raftar stopped:[/red] {error}", highlight=False, soft_wrap=True)
        return 1


async def _init(settings: AllInOneSettings, clock: SystemClock, console: Console, new_keys: bool) -> int:
    started = await first_start(settings, clock, new_keys)
    for line in started.done or ["nothing to do: this house was started before"]:
        console.print(line)
    if any("key" in line for line in started.done):
        console.print(f"public write key {started.access.write_key}", soft_wrap=True, highlight=False)
        console.print(f"secret key       {started.access.secret_key}", soft_wrap=True, highlight=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("run", help="migrate, first start, then the three services until Ctrl-C (default)")
    init = commands.add_parser("init", help="topics, workspace, keys, rules; does nothing the second time")
    init.add_argument("--new-keys", action="store_true", help="make a write key and a secret key in any case")
    commands.add_parser("migrate", help="bring the databases to this version's tables")
    return parser


if __name__ == "__main__":
    sys.exit(main())
