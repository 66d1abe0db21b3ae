"""`raftar customer` about the past, and about a number: where somebody stood, and which touchpoints made it so."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Column, Table

from services.cli.printing import moment, percent, print_json
from services.cli.rest import Rest, path_part
from services.cli.said import days

PAGE = 200


@dataclass(frozen=True, slots=True)
class When:
    """As of when, and as known when; texts as they were typed, None: now."""

    as_of: str | None = None
    known_at: str | None = None

    @property
    def is_now(self) -> bool:
        """Whether the present is asked about."""
        return self.as_of is None and self.known_at is None

    @property
    def query(self) -> dict[str, str | None]:
        """The parameters REST takes."""
        return {"as_of": self.as_of, "known_at": self.known_at}


def standing_then(found: dict[str, Any], decision: dict[str, Any]) -> Table:
    """Where the customer stood: what was decided by then, and what the rules say anew."""
    table = Table(Column(""), Column("decided then"), Column("computed anew"), box=None)
    decided, computed = decision["decided"], decision["computed"] or {}
    told = [text for text in (_limit("as of", found["as_of"]), _limit("known at", found["known_at"])) if text]
    table.title = ", ".join(told) + ("" if decision["complete"] else "  (something of that time may still come)")
    table.add_row("stage", _staged(decided["stage"], decided["stage_since"]), str(computed.get("stage") or "-"))
    table.add_row("risk of leaving", percent(decided["risk"]) or "-", percent(computed.get("risk")) or "-")
    table.add_row("silent since", "", moment(computed.get("silent_since")) or "-")
    silence_ms = (computed.get("reasons") or {}).get("silence_ms")
    table.add_row("silent for", "", days(silence_ms) or "-")
    for alert in decided["alerts"]:
        table.add_row("open alert", f"{alert['policy']} raised {moment(alert['raised_at'])}", "")
    return table


def _limit(name: str, at: str | None) -> str:
    return f"{name} {moment(at)}" if at else ""


def _staged(stage: str | None, since: str | None) -> str:
    return f"{stage} since {moment(since)}" if stage else "-"


def why(profiles: Rest, customer_id: str, feature: str, when: When, out: Console, as_json: bool) -> None:
    """Show the touchpoints that made a number, oldest first. Raises Refused, naming the numbers there are."""
    path = f"/v1/customers/{customer_id}/facts/{path_part(feature)}"
    page = profiles.get(path, {"limit": PAGE, **when.query})
    if as_json:
        print_json(out, page)
        return
    table = Table(Column("when", no_wrap=True), "what", "channel", "source", Column("adds", justify="right"),
                  Column(feature, justify="right"), box=None)  # fmt: skip
    for item in page["items"]:
        touchpoint = item["touchpoint"]
        what = escape(str(touchpoint["name"] or touchpoint["kind"]))
        row = (moment(touchpoint["occurred_at"]), what, touchpoint["channel"], touchpoint["source"])
        table.add_row(*row, _signed(item["contribution"]), _value(item["value"]))
    parts: list[Table | str] = [f"{escape(feature)} is {_value(page['value'])}", "", table]
    if page["next"]:
        parts.append(f"and more: the first {PAGE} are shown, all of them with GET {escape(path)}")
    out.print(Panel(Group(*parts), title=page["customer_id"], title_align="left"))


def _signed(contribution: float | None) -> str:
    if contribution is None:
        return ""
    return f"{contribution:+d}" if isinstance(contribution, int) else f"{contribution:+.3g}"


def _value(value: Any) -> str:
    return "-" if value is None else escape(str(value))
