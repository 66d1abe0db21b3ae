"""The commands of `raftar`: their words, options and examples. What they do stands in the modules beside this one."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from services.cli import customer as customer_command
from services.cli import keys as keys_command
from services.cli import model as model_command
from services.cli import republish as republish_command
from services.cli import tail as tail_command
from services.cli.erasing import erase_command, receipt_command, reinstate_command
from services.cli.errors import EXIT_CODES, INTERRUPTED, CommandError
from services.cli.failed import failed_app
from services.cli.house import CliSettings, House, find_house
from services.cli.importing import command as import_command
from services.cli.past import When
from services.cli.rebuild import rebuild_app
from services.cli.sealing import add_sealing_commands
from services.cli.verify import verify_command

EXITS = "Exit codes: " + " · ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())

app = typer.Typer(
    name="raftar",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Who your customers are, what they do, and who is about to leave: from the command line.",
    epilog=EXITS,
)
keys_app = typer.Typer(
    no_args_is_help=True, help="API keys: make, list, revoke. Sealing keys: list, rotate, destroy.", epilog=EXITS
)
app.add_typer(keys_app, name="keys")
add_sealing_commands(keys_app)
app.add_typer(failed_app, name="failed")
app.command("erase", epilog="Example: raftar erase user:4711   ·   raftar erase email:ada@example.org --yes --json")(
    erase_command
)
app.command("receipt", epilog="Example: raftar receipt   ·   raftar receipt 0190163d-8694-739b-aea5-966c26f8ad91")(
    receipt_command
)
app.command("reinstate", epilog="Example: raftar reinstate email:ada@example.org")(reinstate_command)
app.add_typer(rebuild_app, name="rebuild")
app.command("verify", epilog="Example: raftar verify   ·   raftar verify --customer user:42 --json")(verify_command)
model_app = typer.Typer(no_args_is_help=True, help="The churn model: fit it to your customers.", epilog=EXITS)
app.add_typer(model_app, name="model")

out = Console()
err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="JSON for scripts: one document, or one a line.")]


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    with clear_errors():
        app()
    sys.exit(0)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Failures a user can act on end with a sentence, the next step and their exit code, never a traceback."""
    try:
        yield
    except CommandError as error:
        err.print(f"[red]{escape(str(error))}[/red]", highlight=False, soft_wrap=True)
        if error.next_step:
            err.print(f"Next: {escape(error.next_step)}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("[yellow]Interrupted.[/yellow]")
        sys.exit(INTERRUPTED)


def _files(*arguments: str) -> NoReturn:
    """A command on the house's own files and databases, which must work when no house answers."""
    from services.__main__ import main as services

    sys.exit(services(arguments))


def _house() -> House:
    return find_house(CliSettings())


@app.command(epilog="Example: raftar run   ·   RAFTAR_INGEST_PORT=0 raftar run takes a free port")
def run() -> None:
    """Run the whole house on this machine until Ctrl-C: ingest, profiles, scoring."""
    from services.__main__ import main as services

    sys.exit(services(["run"]))


@app.command(epilog="Example: raftar backup /backups/monday   ·   raftar backup /backups/monday --with-keys --json")
def backup(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder, not below the data folder.")],
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Put the keys in too: then it opens everything.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Back up an embedded house on this machine, running or not: one instant of all its files."""
    _files("backup", str(folder), *(["--with-keys"] if with_keys else []), *(["--json"] if as_json else []))


@app.command(epilog="Example: RAFTAR_DATA_DIR=fresh raftar restore /backups/monday --keys /safe/keys")
def restore(
    folder: Annotated[Path, typer.Argument(help="What `raftar backup` wrote.")],
    keys: Annotated[Path | None, typer.Option(help="The keys folder, where it was kept apart.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Read and check the whole backup, write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a backup into an empty data folder; nothing is ever overwritten."""
    options = [
        *(["--keys", str(keys)] if keys else []),
        *(["--check"] if check else []),
        *(["--json"] if as_json else []),
    ]
    _files("restore", str(folder), *options)


@app.command(epilog="Example: raftar doctor   ·   raftar doctor --json | jq '.checks[] | select(.level == \"fail\")'")
def doctor(as_json: AsJson = False) -> None:
    """What is wrong with the house on this machine, running or not, and the next step. Exit code 1: something is."""
    _files("doctor", *(["--json"] if as_json else []))


@app.command(epilog="Example: raftar demo --leave")
def demo(
    leave: Annotated[
        bool | None,
        typer.Option("--leave/--stay", help="End after the show, or keep the house (default on a terminal)."),
    ] = None,
) -> None:
    """Under a minute, in a folder of its own: real purchases in, alerts out at their exact time."""
    stay = sys.stdin.isatty() and out.is_terminal if leave is None else not leave
    command = [sys.executable, "-m", "services.demo", *(["--stay"] if stay else [])]
    os.execv(sys.executable, command)  # noqa: S606  (the demo uses our parts: imported here it would be a circle)


@app.command(
    "import",
    epilog="Example: raftar import orders.csv --map customer=user_id --map date=occurred_at "
    "--map total=properties.amount --set kind=purchased --set properties.currency=EUR",
)
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON lines or CSV, gzip too.")],
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", help="CSV: column=field[:text|int|number|bool]."),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="CSV: field=value, the same for every row.")] = None,
    map_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="YAML with `map:` and `set:`, for many options."),
    ] = None,
    id_from: Annotated[
        list[str] | None,
        typer.Option(help="Columns (or JSON fields) that together name a row; default: the row's text and number."),
    ] = None,
    delimiter: Annotated[str, typer.Option(help="CSV: what stands between cells.")] = ",",
    time_zone: Annotated[str, typer.Option(help="CSV: zone of times without an offset.")] = "UTC",
    again: Annotated[bool, typer.Option("--again", help="Send a finished import once more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring history: touchpoints of the past, without alerts about the past.

    Goes on where it stopped when it was interrupted; sending a row twice counts it once.
    """
    asked = import_command.Asked(
        file, tuple(map_ or ()), tuple(set_ or ()), map_file, tuple(id_from or ()), delimiter, time_zone, again
    )
    raise typer.Exit(import_command.run(_house(), asked, out, err, as_json))


@app.command(epilog="Example: raftar tail alerts --json | jq .data.reasons")
def tail(
    topic: Annotated[tail_command.Topic, typer.Argument(help="alerts, or segments (changes of stage).")],
    as_json: AsJson = False,
) -> None:
    """Follow what the house says, live, until Ctrl-C."""
    tail_command.run(_house(), topic, out, err, as_json)


@app.command(
    epilog="Example: raftar customer user:4711   ·   raftar customer user:4711 --as-of 2026-03-01   ·   "
    "raftar customer user:4711 --why money.EUR"
)
def customer(
    who: Annotated[str, typer.Argument(metavar="ID", help="A customer id (32 hex digits) or KIND:VALUE.")],
    last: Annotated[int, typer.Option(min=0, max=200, help="How many of the latest touchpoints to show.")] = 10,
    as_of: Annotated[
        str | None, typer.Option(help="Only what had happened by then: 2026-03-01, 2026-03-01T12:00Z or epoch ms.")
    ] = None,
    known_at: Annotated[str | None, typer.Option(help="Only what Raftar knew by then, links too.")] = None,
    why: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Which touchpoints made this number: orders.count, money.EUR …")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Who this customer is, what happened, how likely they leave, and why; now or then."""
    when = When(as_of, known_at)
    if why is not None:
        customer_command.explain(_house(), who, why, out, as_json, when)
    else:
        customer_command.run(_house(), who, last, out, as_json, when)


@app.command(epilog="Example: raftar republish   ·   raftar republish --no-wait --json")
def republish(
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show how far it is until it is finished.")] = True,
    as_json: AsJson = False,
) -> None:
    """Have every customer told again to `profile-changes`, with the version they have.

    Who knows that version passes over it; who lost it learns it. Ctrl-C ends the watching, not the republish.
    """
    republish_command.run(_house(), out, err, as_json, wait)


@keys_app.command("create", epilog="Example: raftar keys create secret --source crm --scope read --scope write")
def keys_create(
    kind: Annotated[keys_command.Kind, typer.Argument(help="write: public, for websites; secret: your own systems.")],
    source: Annotated[str, typer.Option(help="What sends with it, for example `website`.")],
    scope: Annotated[
        list[keys_command.Scope] | None, typer.Option(help="What a secret key may do; repeat for several.")
    ] = None,
    label: Annotated[str, typer.Option(help="A note for people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown once, and only its hash is kept."""
    keys_command.create(_house(), kind, source, scope or [], label, out, as_json)


@keys_app.command("list", epilog="Example: raftar keys list --json")
def keys_list(as_json: AsJson = False) -> None:
    """All keys of the workspace, without their secrets."""
    keys_command.list_keys(_house(), out, as_json)


@keys_app.command("revoke", epilog="Example: raftar keys revoke 1f2e3d4c5b6a7980")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The id that `raftar keys list` shows.")],
    as_json: AsJson = False,
) -> None:
    """A revoked key opens nothing any more, within seconds, in every service."""
    keys_command.revoke(_house(), key_id, out, as_json)


@model_app.command("fit", epilog="Example: raftar model fit   ·   raftar model fit --look --json | jq .figures.holdout")
def model_fit(
    look: Annotated[bool, typer.Option("--look", help="Only say how good it would be; change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fit the churn model to the workspace's own customers and publish it as the next version.

    It takes effect a few seconds later and raises no alert about the past. Ctrl-C ends the watching, not the fit.
    """
    model_command.fit(_house(), look, out, err, as_json)


@model_app.command("list", epilog="Example: raftar model list --json")
def model_list(as_json: AsJson = False) -> None:
    """Every version of the model, how good it is, and the last fit."""
    model_command.list_versions(_house(), out, as_json)
