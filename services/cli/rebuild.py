"""`raftar rebuild profiles` and `scoring`: begin a rebuild, watch it, switch to it, roll back, let go of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from time import sleep
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from services.cli.errors import EXIT_CODES, CommandError, WrongUse
from services.cli.house import CliSettings, find_house
from services.cli.printing import print_json
from services.cli.rest import Rest

LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 120.0
PATH = "/v1/rebuild"
RESTING = ("none", "ready", "switched", "failed")

Shown = dict[str, Any]

rebuild_app = typer.Typer(
    no_args_is_help=True,
    help="Fold a service's state anew from the log, beside the live one, and switch to it.",
    epilog="Exit codes: " + " · ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()),
)


@rebuild_app.command(
    "profiles",
    epilog="Example: raftar rebuild profiles   ·   raftar rebuild profiles --switch   ·   "
    "raftar rebuild profiles --status --json",
)
def profiles_command(
    status: Annotated[bool, typer.Option("--status", help="Only show how far it is.")] = False,
    switch: Annotated[
        bool, typer.Option("--switch", help="Switch to it (begins one first where there is none).")
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept-differences", help="With --switch: also when something differs.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Make the version before the last switch live again.")
    ] = False,
    abandon: Annotated[bool, typer.Option("--abandon", help="Let go of a rebuild that is not live yet.")] = False,
    drop_previous: Annotated[
        bool, typer.Option("--drop-previous", help="After a switch: drop the version that was live before.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show how far it is until it rests.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts: one document.")] = False,
) -> None:
    """Fold every profile anew from the log, beside the live ones, and compare.

    Without options: begins a rebuild, or watches the one under way. Ctrl-C ends the watching; the rebuild goes on.
    """
    asked = _one_of(status, switch, rollback, abandon, drop_previous)
    house = find_house(CliSettings())
    run(house.profiles(), asked, accept, Console(), Console(stderr=True), wait, as_json)


@rebuild_app.command(
    "scoring",
    epilog="Example: raftar rebuild scoring   ·   raftar rebuild scoring --switch --accept-differences   ·   "
    "raftar rebuild scoring --status --json",
)
def scoring_command(
    status: Annotated[bool, typer.Option("--status", help="Only show how far it is.")] = False,
    switch: Annotated[
        bool, typer.Option("--switch", help="Put right who differs (begins one first where there is none).")
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept-differences", help="With --switch: also when somebody differs.")
    ] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Put back what the last switch replaced.")] = False,
    abandon: Annotated[bool, typer.Option("--abandon", help="Let go of a rebuild that is not live yet.")] = False,
    drop_previous: Annotated[
        bool, typer.Option("--drop-previous", help="After a switch: drop what was replaced.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show how far it is until it rests.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts: one document.")] = False,
) -> None:
    """Make every decision anew from what scoring said, beside the live ones, and compare.

    Without options: begins a rebuild, or watches the one under way. Ctrl-C ends the watching; the rebuild goes on.
    """
    asked = _one_of(status, switch, rollback, abandon, drop_previous)
    house = find_house(CliSettings())
    run(house.scoring(), asked, accept, Console(), Console(stderr=True), wait, as_json)


def _one_of(*flags: bool) -> str:
    """The one thing that is asked for, "" for none. Raises WrongUse for two."""
    names = ("--status", "--switch", "--rollback", "--abandon", "--drop-previous")
    chosen = [name for name, on in zip(names, flags, strict=True) if on]
    if len(chosen) > 1:
        raise WrongUse(f"{' and '.join(chosen)} exclude each other", "ask for one thing at a time")
    return chosen[0] if chosen else ""


def run(
    service: AbstractContextManager[Rest],
    asked: str,
    accept: bool,
    out: Console,
    err: Console,
    wait: bool,
    as_json: bool,
    pause: Callable[[float], None] = sleep,
) -> None:
    """Do what is asked ("" begins or watches) and show what came of it. Raises CommandError when it failed."""
    with service as rest:
        found = _asked(rest, asked, accept)
        if wait and asked != "--status":
            found = watch(rest, found, err, pause)
    if as_json:
        print_json(out, found)
    else:
        _print(out, found)
    if found["phase"] == "failed" and asked != "--status":
        raise CommandError(f"the rebuild failed: {found['why']}", found["next_step"])


def _asked(rest: Rest, asked: str, accept: bool) -> Shown:
    found: Shown = rest.get(PATH)
    phase = found["phase"]
    if asked == "--status":
        return found
    if asked == "--switch" and phase != "none":
        return dict(rest.post(f"{PATH}/switch", {"accept_differences": accept}))
    if asked == "--rollback":
        return dict(rest.post(f"{PATH}/rollback"))
    if asked in ("--abandon", "--drop-previous"):
        return _let_go(rest, asked, phase)
    if phase == "switched":
        raise WrongUse(
            "the version before the last switch is still kept",
            "drop it with --drop-previous, or make it live again with --rollback",
        )
    if phase == "none":
        return dict(rest.post(PATH, {"switch_when_equal": asked == "--switch"}))
    return found


def _let_go(rest: Rest, asked: str, phase: str) -> Shown:
    if phase == "switched" and asked == "--abandon":
        raise WrongUse("it is live already", "make the version before live again with --rollback, or --drop-previous")
    if phase in ("filling", "comparing", "ready", "failed") and asked == "--drop-previous":
        raise WrongUse("nothing was switched yet", "let go of the rebuild with --abandon")
    return dict(rest.delete(PATH))


def watch(rest: Rest, found: Shown, err: Console, pause: Callable[[float], None]) -> Shown:
    """The rebuild once it rests: ready, switched, failed, or gone."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=100.0, told="")
        while found["phase"] not in RESTING or found["wanted"]:
            bar.update(task, description=found["phase"], completed=found["percent"], told=_told(found))
            pause(LOOK_SECONDS)
            found = dict(rest.send("GET", PATH, patience_seconds=PATIENCE_SECONDS))
    return found


def _told(found: Shown) -> str:
    if found["waiting"]:
        return f"waits: live is {found['live_lag_seconds']:.1f} s behind"
    left = found["seconds_left"]
    rest = "" if not left else f", {left:.0f} s left"
    return f"{found['events_per_second']:.0f} events/s{rest}, live lag {found['live_lag_seconds']:.2f} s"


def _print(out: Console, found: Shown) -> None:
    kind = found["kind"] or "rebuild"
    out.print(f"{kind}: [bold]{found['phase']}[/bold], {found['percent']:.1f} %", highlight=False)
    if found["phase"] in ("filling", "comparing"):
        out.print(_told(found), highlight=False)
    if found["equal"] is not None and found["phase"] != "filling":
        _print_comparison(out, found)
    if found.get("leaves_to_tell"):
        out.print(f"{found['leaves_to_tell']} identifiers are still to be told to profile-changes", highlight=False)
    if found["why"]:
        out.print(f"[red]{found['why']}[/red]", highlight=False)
    out.print(f"Next: {found['next_step']}", highlight=False)


def _print_comparison(out: Console, found: Shown) -> None:
    differing = found["differing"]
    if found["equal"]:
        out.print(f"Nothing differs: digest {found['digest_made'][:16]} on both sides.", highlight=False)
        return
    out.print(f"{differing['customers']} customers of this workspace differ.", highlight=False)
    for name, count in sorted(differing["features"].items()):
        out.print(f"  {name}: {count}", highlight=False)
    for one in differing["examples"]:
        out.print(f"  {one['customer_id']}  {', '.join(one['features'])}", highlight=False, soft_wrap=True)
