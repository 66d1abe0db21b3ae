"""`raftar customer`: one customer on one screen, from profiles and scoring."""

import re
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table

from services.cli.errors import Refused
from services.cli.house import House
from services.cli.printing import moment, percent, print_json
from services.cli.rest import Rest

CUSTOMER_ID = re.compile(r"[0-9a-f]{32}")


def run(house: House, who: str, last: int, out: Console, as_json: bool) -> None:
    """Show who stands behind `who`: a customer id, or KIND:VALUE of an identifier. Raises Refused (not found)."""
    with house.profiles() as profiles, house.scoring() as scoring:
        profile = find(profiles, who)
        customer_id = str(profile["customer_id"])
        timeline = profiles.get(f"/v1/customers/{customer_id}/timeline", {"limit": last}) if last else {"items": []}
        decided = decision(scoring, customer_id)
    if as_json:
        print_json(out, {"profile": profile, "timeline": timeline["items"], "decision": decided})
    else:
        out.print(Panel(Group(_facts(profile, decided), _timeline(timeline["items"])), title=customer_id))


def find(profiles: Rest, who: str) -> dict[str, Any]:
    """The profile of a customer id or an identifier. Raises Refused."""
    if CUSTOMER_ID.fullmatch(who):
        found = profiles.get(f"/v1/customers/{who}")
    else:
        found = profiles.get("/v1/customers", {"identifier": who if ":" in who else f"user:{who}"})
    return dict(found)


def decision(scoring: Rest, customer_id: str) -> dict[str, Any] | None:
    """What scoring decided about a customer; None when it knows nothing of them yet."""
    try:
        return dict(scoring.get(f"/v1/customers/{customer_id}"))
    except Refused as error:
        if error.status == 404:
            return None
        raise


def _facts(profile: dict[str, Any], decided: dict[str, Any] | None) -> Table:
    table = Table(show_header=False, box=None)
    table.add_row("first seen", moment(profile.get("first_at")))
    table.add_row("last seen", moment(profile.get("last_at")))
    if decided:
        table.add_row("stage", str(decided.get("stage", "")))
        table.add_row("risk of leaving", percent(decided.get("risk")))
        for alert in decided.get("alerts", []):
            table.add_row("open alert", str(alert.get("summary") or alert.get("kind", "")))
    return table


def _timeline(items: list[dict[str, Any]]) -> Table:
    table = Table("when", "what", "channel", box=None, title="latest touchpoints", title_justify="left")
    for item in items:
        table.add_row(
            moment(item.get("occurred_at")), str(item.get("name") or item.get("kind")), str(item.get("channel"))
        )
    return table
