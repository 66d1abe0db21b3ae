"""`raftar keys sealing`, `rotate`, `destroy`: the keys that personal data is sealed to in the log."""

from time import sleep
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from services.cli.errors import Refused, WrongUse
from services.cli.house import CliSettings, find_house
from services.cli.printing import moment, print_json
from services.cli.rest import path_part

LOOK_SECONDS = 1.0

AsJson = Annotated[bool, typer.Option("--json", help="JSON for scripts: one document.")]


def add_sealing_commands(keys_app: typer.Typer) -> None:
    """Add them beside the commands for API keys."""
    keys_app.command("sealing", epilog="Example: raftar keys sealing --json")(sealing_command)
    rotate = (
        "Example: raftar keys rotate   ·   raftar keys rotate --prepare, then copy both files, then raftar keys rotate"
    )
    keys_app.command("rotate", epilog=rotate)(rotate_command)
    keys_app.command("destroy", epilog="Example: raftar keys destroy 0001-5f2a9c01d3e4 --yes")(destroy_command)


def sealing_command(as_json: AsJson = False) -> None:
    """The keys personal data is sealed to, and since when."""
    with find_house(CliSettings()).profiles() as profiles:
        shown = profiles.get("/v1/sealing-keys")
    _show(shown, as_json)


def rotate_command(
    prepare: Annotated[
        bool,
        typer.Option("--prepare", help="Make the pair only; copy its files to every profiles machine, then rotate."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Seal to a new key from now on, within seconds at every door. The old one still opens what it sealed."""
    with find_house(CliSettings()).profiles() as profiles:
        shown = profiles.post("/v1/sealing-keys/rotate", {"prepare": prepare})
    _show(shown, as_json)


def destroy_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `raftar keys sealing` shows it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait_seconds: Annotated[int, typer.Option(min=0, help="Ask again so long while it is still needed.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Destroy a replaced key, everywhere. What was sealed to it in the log is unreadable for ever."""
    if not yes and not typer.confirm(f"Destroy {name}? Nothing brings back what only the log holds.", err=True):
        raise WrongUse("nothing was destroyed", "say yes, or --yes in a script")
    with find_house(CliSettings()).profiles() as profiles:
        waited_seconds = 0.0
        while True:
            try:
                shown = profiles.delete(f"/v1/sealing-keys/{path_part(name)}")
                break
            except Refused as error:
                if error.status != 409 or waited_seconds >= wait_seconds:
                    raise
            sleep(LOOK_SECONDS)
            waited_seconds += LOOK_SECONDS
    _show(shown, as_json)


def _show(shown: Any, as_json: bool) -> None:
    out = Console()
    if as_json:
        print_json(out, shown["keys"])
        return
    table = Table(Column("name", no_wrap=True), "state", "since", "until", "last used", "destroyed", "here", box=None)
    for key in shown["keys"]:
        times = [moment(key[name]) for name in ("since", "until", "last_used_at", "destroyed_at")]
        table.add_row(key["name"], key["state"].replace("_", " "), *times, "yes" if key["is_here"] else "no")
    out.print(table)
