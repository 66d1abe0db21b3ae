"""`raftar verify`: customers refolded from the log, and every value that is stored otherwise."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from services.cli.errors import DRIFTED, WrongUse
from services.cli.house import CliSettings, House, find_house
from services.cli.printing import print_json
from services.cli.rest import Rest

PATH = "/v1/verify"
PAGE = 50
ROUNDS_MAX = 10_000
"""A sample of customers taken at random may take the same one twice; it ends where the workspace does."""

Found = dict[str, Any]
_COUNTS = ("customers", "touchpoints", "unreadable", "drifted", "log_touchpoints")


def verify_command(
    sample: Annotated[int | None, typer.Option(min=1, help="So many customers at random (the default: 100).")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every customer of the workspace.")] = False,
    customer: Annotated[str | None, typer.Option(metavar="ID", help="One customer: an id or KIND:VALUE.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts: one document.")] = False,
) -> None:
    """Refold customers from the log and compare with what is stored.

    Leaves with exit code 5 when something differs: customer, feature, what is stored and what the log says.
    """
    if sum((sample is not None, everyone, customer is not None)) > 1:
        raise WrongUse("--sample, --all and --customer exclude each other", "ask for one of them")
    found = run(find_house(CliSettings()), customer, None if everyone else sample or 100, Console(stderr=True))
    out = Console()
    if as_json:
        print_json(out, found)
    else:
        _print(out, found)
    if found["drifts"] or found["lost"]:
        raise typer.Exit(DRIFTED)


def run(house: House, customer: str | None, sample: int | None, err: Console) -> Found:
    """Verify one customer, `sample` at random, or all where both are None; returns what all pages found together."""
    found: Found = {**dict.fromkeys(_COUNTS, 0), "drifts": [], "lost": []}
    with (
        house.profiles() as profiles,
        Progress(SpinnerColumn(), TextColumn("{task.description}"), console=err, transient=True) as bar,
    ):
        task = bar.add_task("reading the log")
        if customer is not None:
            _add(found, profiles.post(PATH, {"customer": customer}, patience_seconds=60))
            return found
        for page in _pages(profiles, sample):
            _add(found, page)
            bar.update(task, description=f"{found['customers']} customers, {found['drifted']} drifted")
    return found


def _pages(profiles: Rest, sample: int | None) -> Any:
    """Answers until the sample is full, or everybody was verified."""
    if sample is None:
        after: str | None = None
        while True:
            page = profiles.post(PATH, {"after": after} if after else {}, patience_seconds=60)
            yield page
            after = page["next"]
            if after is None:
                return
    left = sample
    for _ in range(ROUNDS_MAX):
        page = profiles.post(PATH, {"sample": min(left, PAGE)}, patience_seconds=60)
        yield page
        left -= max(1, page["customers"])
        if left <= 0 or not page["customers"]:
            return


def _add(found: Found, page: Found) -> None:
    for name in _COUNTS:
        found[name] += page[name]
    for name in ("drifts", "lost"):
        found[name] += page[name]


def _print(out: Console, found: Found) -> None:
    out.print(
        f"{found['customers']} customers refolded from {found['touchpoints']} touchpoints; "
        f"{found['log_touchpoints']} touchpoints of the log looked up.",
        highlight=False,
    )
    if found["unreadable"]:
        out.print(
            f"{found['unreadable']} touchpoints are archived; their customers could not be verified.", highlight=False
        )
    if not found["drifts"] and not found["lost"]:
        out.print("Nothing drifted.")
        return
    if found["drifts"]:
        table = Table("customer", "feature", "stored", "refolded", box=None)
        for one in found["drifts"]:
            table.add_row(one["customer_id"], one["feature"], _short(one["stored"]), _short(one["refolded"]))
        out.print(table)
    for one in found["lost"]:
        out.print(f"lost: touchpoints/{one['partition']}/{one['position']}/{one['place']}", highlight=False)
    out.print("Next: raftar rebuild profiles", highlight=False)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
