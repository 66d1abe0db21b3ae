"""`raftar republish`: have every customer told again, and watch it."""

from collections.abc import Callable
from time import sleep
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from services.cli.errors import Refused
from services.cli.house import House
from services.cli.printing import print_json
from services.cli.rest import Rest

LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 60.0


def run(
    house: House, out: Console, err: Console, as_json: bool, wait: bool, pause: Callable[[float], None] = sleep
) -> None:
    """Ask for a republish and, with `wait`, show how far it is until it is finished. Ctrl-C leaves it going on."""
    with house.profiles() as profiles:
        found = dict(profiles.post("/v1/republish"))
        if wait:
            found = watch(profiles, found, err, pause)
    if as_json:
        print_json(out, found)
        return
    if not wait:
        out.print(f"republish {found['id']} is asked for; how far it is: GET /v1/republish at profiles")
        return
    out.print(f"{found['customers']} customers were told again (republish {found['id']})")


def watch(profiles: Rest, found: dict[str, Any], err: Console, pause: Callable[[float], None]) -> dict[str, Any]:
    """The republish once it is finished."""
    columns = (TextColumn("republish"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=1.0, told="")
        while found["phase"] != "finished":
            pause(LOOK_SECONDS)
            found = _looked(profiles, found)
            left = found["seconds_left"]
            told = f"{found['identifiers_per_second']:.0f}/s" + ("" if left is None else f", {left:.0f} s left")
            bar.update(task, completed=found["share"], told=told)
    return found


def _looked(profiles: Rest, found: dict[str, Any]) -> dict[str, Any]:
    """It is taken up within a second; until then profiles does not know it."""
    try:
        return dict(profiles.send("GET", f"/v1/republish/{found['id']}", patience_seconds=PATIENCE_SECONDS))
    except Refused as error:
        if error.status == 404 and found["phase"] == "waiting":
            return found
        raise
