"""`raftar customer`: one customer on one screen."""

import re
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Column, Table

from services.cli.errors import Refused
from services.cli.house import House
from services.cli.past import When, standing_then
from services.cli.past import why as why_so
from services.cli.printing import moment, percent, print_json
from services.cli.rest import Rest
from services.cli.said import why

NOW = When()
BAD_FIELD = 422
CUSTOMER_ID = re.compile(r"[0-9a-f]{32}")


def run(house: House, who: str, last: int, out: Console, as_json: bool, when: When = NOW) -> None:
    """Show who stands behind `who`: a customer id, or KIND:VALUE of an identifier. Raises Refused (not found).

    `when`: the past instead, with what was decided then and what the rules say anew.
    """
    with house.profiles() as profiles:
        found = find(profiles, who, when)
        timeline = _timeline_of(profiles, str(found["customer_id"]), last, when)
    decision = None if when.is_now else _decision(house, str(found["customer_id"]), when)
    if as_json:
        past = {} if decision is None else {"decision": decision}
        print_json(out, {"customer": found, "timeline": timeline, **past})
        return
    parts: list[Table | str] = (
        [_standing(found)] if decision is None else [_seen(found), standing_then(found, decision)]
    )
    parts += ["", _identifiers(found["identifiers"], str(found["customer_id"]))]
    parts += ["", _timeline(timeline)] if timeline else []
    out.print(Panel(Group(*parts), title=found["customer_id"], title_align="left"))


def explain(house: House, who: str, feature: str, out: Console, as_json: bool, when: When = NOW) -> None:
    """Show which touchpoints made one number of the profile. Raises Refused (no such customer, no such number)."""
    with house.profiles() as profiles:
        found = find(profiles, who, when)
        why_so(profiles, str(found["customer_id"]), feature, when, out, as_json)


def _decision(house: House, customer_id: str, when: When) -> dict[str, Any]:
    with house.scoring() as scoring:
        return dict(scoring.get(f"/v1/customers/{customer_id}/decision", when.query))


def find(profiles: Rest, who: str, when: When = NOW) -> dict[str, Any]:
    """The view of a customer id or of an identifier (a bare value is a user). Raises Refused."""
    try:
        if CUSTOMER_ID.fullmatch(who):
            return dict(profiles.get(f"/v1/customers/{who}", when.query))
        identifier = who if ":" in who else f"user:{who}"
        return dict(profiles.get("/v1/customers", {"identifier": identifier, **when.query}))
    except Refused as error:
        error.next_step = error.next_step or _next_step(error, when)
        raise


def _next_step(error: Refused, when: When) -> str:
    if error.status == BAD_FIELD and not when.is_now:
        return "write times as 2026-03-01, 2026-03-01T12:00:00Z or epoch milliseconds"
    step = "name another identifier: user:4711, email:ada@example.org, phone:+98..."
    return step if when.is_now else f"ask for a later instant, or {step}"


def _timeline_of(profiles: Rest, customer_id: str, last: int, when: When) -> list[dict[str, Any]]:
    if not last:
        return []
    return list(profiles.get(f"/v1/customers/{customer_id}/timeline", {"limit": last, **when.query})["items"])


def _seen(found: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None)
    table.add_row("first seen", moment(found.get("first_at")))
    table.add_row("last seen", moment(found.get("last_at")))
    return table


def _standing(found: dict[str, Any]) -> Table:
    table = _seen(found)
    if found.get("stage"):
        table.add_row("stage", f"{found['stage']} since {moment(found.get('stage_at'))}")
    if found.get("risk") is not None:
        table.add_row("risk of leaving", f"{percent(found['risk'])} at {moment(found.get('risk_at'))}")
    for alert in found.get("alerts", []):
        table.add_row("open alert", f"{alert.get('policy')} at {moment(alert.get('crossed_at'))}: {why(alert)}")
    return table


def _identifiers(identifiers: list[dict[str, Any]], customer_id: str) -> Table:
    names = {f"customer {customer_id}": "this customer"}
    names |= {str(one["leaf"]): str(one["value"]) for one in identifiers if one["value"]}
    table = Table(Column("known as", no_wrap=True), "why here", box=None)
    for one in identifiers:
        explanation = str(one["explanation"])
        for known, name in names.items():
            explanation = explanation.replace(known, name)
        table.add_row(escape(f"{one['kind']}:{one['value'] or '(not readable)'}"), escape(explanation))
    return table


def _timeline(items: list[dict[str, Any]]) -> Table:
    table = Table(Column("when", no_wrap=True), "what", "channel", "source", box=None)
    for item in items:
        what = str(item.get("name") or item["kind"])
        table.add_row(moment(item["occurred_at"]), escape(what), item["channel"], item["source"])
    return table
