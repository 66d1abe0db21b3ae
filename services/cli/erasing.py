"""`raftar erase`, `receipt`, `reinstate`: forget a customer, see what was done, track them again."""

from time import sleep
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from services.cli.customer import CUSTOMER_ID, find
from services.cli.errors import Refused, WrongUse
from services.cli.house import CliSettings, House, find_house
from services.cli.printing import moment, print_json
from services.cli.rest import Rest, path_part

LOOK_SECONDS = 0.3
PATIENCE_SECONDS = 60.0

Shown = dict[str, Any]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for scripts: one document.")]
Who = Annotated[str, typer.Argument(metavar="ID", help="A customer id (32 hex digits) or KIND:VALUE.")]


def erase_command(
    who: Who,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every service has forgotten them.")] = True,
    as_json: AsJson = False,
) -> None:
    """Forget a customer: values deleted, timeline blanked, later events dropped until reinstated. Shows the receipt."""
    erase(find_house(CliSettings()), who, Console(), Console(stderr=True), yes=yes, wait=wait, as_json=as_json)


def receipt_command(
    erasure_id: Annotated[str, typer.Argument(metavar="ERASURE_ID", help="As `raftar erase` showed it.")] = "",
    as_json: AsJson = False,
) -> None:
    """What an erasure has done so far, and what is left to do; without an id, the newest ones."""
    show_receipts(find_house(CliSettings()), erasure_id, Console(), as_json)


def reinstate_command(who: Who, as_json: AsJson = False) -> None:
    """Track an erased customer again, from nothing: all their identifiers by an id, a single one by KIND:VALUE."""
    reinstate(find_house(CliSettings()), who, Console(), as_json)


def erase(house: House, who: str, out: Console, err: Console, *, yes: bool, wait: bool, as_json: bool) -> None:
    """Erase, wait until it is done (or not), show the receipt. Raises Refused, WrongUse."""
    with house.profiles() as profiles:
        customer_id = who if CUSTOMER_ID.fullmatch(who) else str(find(profiles, who)["customer_id"])
        if not yes:
            _ask(profiles, customer_id, err)
        receipt = profiles.delete(f"/v1/customers/{path_part(customer_id)}")
        if wait:
            with err.status("Every service forgets ..."):
                receipt = _until_done(profiles, receipt)
    if as_json:
        print_json(out, receipt)
    else:
        _show(out, receipt)


def show_receipts(house: House, erasure_id: str, out: Console, as_json: bool) -> None:
    """One receipt, or the newest ones. Raises Refused."""
    with house.profiles() as profiles:
        if erasure_id:
            receipt = profiles.get(f"/v1/erasures/{path_part(erasure_id)}")
            print_json(out, receipt) if as_json else _show(out, receipt)
            return
        receipts = list(profiles.get("/v1/erasures"))
    if as_json:
        print_json(out, receipts)
        return
    table = Table(Column("erasure", no_wrap=True), Column("customer", no_wrap=True), "state", "asked", "log", box=None)
    for one in receipts:
        log = "readable" if one["sealed_copy"]["readable"] else "unreadable"
        table.add_row(one["id"], one["customer_id"], one["state"], moment(one["requested_at"]), log)
    out.print(table)


def reinstate(house: House, who: str, out: Console, as_json: bool) -> None:
    """Reinstate by an id or an identifier. Raises Refused."""
    with house.profiles() as profiles:
        if CUSTOMER_ID.fullmatch(who):
            answer = profiles.post(f"/v1/customers/{who}/reinstate")
        else:
            body = {"identifier": who if ":" in who else f"user:{who}"}
            answer = profiles.post("/v1/customers/reinstate", body)
    if as_json:
        print_json(out, answer)
    else:
        out.print(answer["consequence"])


def _ask(profiles: Rest, customer_id: str, err: Console) -> None:
    try:
        found = find(profiles, customer_id)
    except Refused as error:
        if error.status != 404:
            raise
        return  # erased before: the answer is the receipt, and nothing can be lost
    names = [f"{one['kind']}:{one['value'] or '(not readable)'}" for one in found["identifiers"]]
    err.print(f"{customer_id}, seen {moment(found['first_at'])} to {moment(found['last_at'])}", highlight=False)
    err.print(f"known as {escape(', '.join(names))}", highlight=False)
    err.print("Everything known of them goes, for good. Other systems that follow the topics are told to forget too.")
    if not typer.confirm("Erase this customer?", err=True):
        raise WrongUse("nothing was erased", "say yes, or --yes in a script")


def _until_done(profiles: Rest, receipt: Shown) -> Shown:
    waited_seconds = 0.0
    while receipt["state"] != "erased" and waited_seconds < PATIENCE_SECONDS:
        sleep(LOOK_SECONDS)
        waited_seconds += LOOK_SECONDS
        receipt = profiles.get(f"/v1/erasures/{receipt['id']}")
    return receipt


def _show(out: Console, receipt: Shown) -> None:
    table = Table(show_header=False, box=None)
    table.add_row("erasure", receipt["id"])
    table.add_row("customer", receipt["customer_id"])
    table.add_row("state", f"{receipt['state']} {moment(receipt['erased_at'])}")
    table.add_row("identifiers", str(len(receipt["leaves"])))
    table.add_row("values deleted", str(receipt["personal_values"]))
    table.add_row("touchpoints blanked", str(receipt["bodies"]))
    table.add_row("stages forgotten", str(sum(leaf["stages"] for leaf in receipt["leaves"])))
    table.add_row("words on alerts forgotten", str(sum(leaf["alerts"] for leaf in receipt["leaves"])))
    table.add_row("freed space overwritten", moment(receipt["freed_space_overwritten_at"]) or "soon")
    copy = receipt["sealed_copy"]
    if copy["readable"]:
        table.add_row("the log's sealed copy", f"readable until its keys are destroyed; next: {copy['next_step']}")
    else:
        table.add_row("the log's sealed copy", f"unreadable since {moment(copy['unreadable_since'])}")
    out.print(table)
    if receipt["state"] != "erased":
        out.print(f"Not done yet: raftar receipt {receipt['id']}", highlight=False)
