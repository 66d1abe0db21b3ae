"""The demo itself: start a house, bring real purchases, do nothing, and watch alerts come at the instants foreseen."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from time import sleep
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from services.all_in_one import alerts_curl
from services.cli import said
from services.cli.errors import DONE, CommandError
from services.cli.house import House
from services.cli.importing import command as importing
from services.cli.printing import percent
from services.cli.sse import follow
from services.cli.tail import STREAM, Topic, events
from services.demo.house import house_in
from services.demo.purchases import Bought, Plan, order_id, plan, purchases, touchpoints, user_id
from services.scoring.defaults import first_definition
from services.scoring.domain.alerts import BAD_EXPERIENCE
from services.scoring.domain.definitions import definition_of
from shared.clock import Clock, SystemClock

FIRST_CROSSING_MS = 15_000
SPACING_MS = 2_000
CROSSINGS = 6
PATIENCE_SECONDS = 15.0
RAISED = "alert.raised"
INDENTED = (0, 0, 0, 3)
COLUMNS = ("customer", "bought", "silent\nfor", "usual\ngap", "buys in\n90 d", "foreseen", "crossed", "alert\nseen")


@dataclass(frozen=True, slots=True)
class Seen:
    """An alert as it arrived: the CloudEvent, and when (epoch ms)."""

    event: dict[str, Any]
    at_ms: int


class Listening:
    """Follows the alerts on a thread of its own and stamps each with the moment of its arrival."""

    def __init__(self, house: House, clock: Clock) -> None:
        self._house, self._clock = house, clock
        self._seen: Queue[Seen | Exception] = Queue()
        self._connected: Queue[None] = Queue()

    def start(self) -> None:
        """Return when the stream stands. Raises what the stream raised."""
        Thread(target=self._follow, daemon=True).start()
        try:
            self._connected.get(timeout=PATIENCE_SECONDS)
        except Empty:
            self.next(0.0)
            raise CommandError("the stream of alerts does not answer") from None

    def next(self, seconds: float) -> Seen | None:
        """The next raised alert, None when none came within `seconds`."""
        try:
            found = self._seen.get(timeout=max(seconds, 0.001))
        except Empty:
            return None
        if isinstance(found, Exception):
            raise found
        return found

    def _follow(self) -> None:
        try:
            with self._house.scoring() as scoring:
                wanted = {"types": Topic.ALERTS.value}
                for event in events(follow(scoring, STREAM, wanted, lambda: self._connected.put(None))):
                    if str(event["type"]).endswith(RAISED):
                        self._seen.put(Seen(event, self._clock.now_ms()))
        except Exception as error:  # handed to the thread that shows, which raises it
            self._seen.put(error)


def show(out: Console, stay: bool) -> None:
    """The whole show, under a minute; `stay` keeps the house up afterwards until Ctrl-C."""
    clock = SystemClock()
    with tempfile.TemporaryDirectory(prefix="raftar-demo-") as name:
        folder = Path(name)
        out.print("[bold]1. A house[/bold]: ingest, profiles and scoring, on SQLite, in a folder of its own ...")
        with house_in(folder, clock) as house:
            listening = Listening(house, clock)
            listening.start()
            bought = purchases()
            planned = bring(house, folder, bought, clock, out)
            seen = watch(bought, planned, listening, clock, out)
            complain(house, bought, planned, listening, clock, out)
            out.print("[bold]5. Silences foreseen, and the alerts that came[/bold]")
            out.print(summary(bought, planned, seen))
            if stay:
                out.print(where_to_look(house, planned), highlight=False, soft_wrap=True)
                wait_for_interrupt(out)
            else:
                out.print("This house ends now. `raftar demo --stay` keeps it, `make run` starts your own.")


def bring(house: House, folder: Path, bought: Mapping[str, list[Bought]], clock: Clock, out: Console) -> Plan:
    """Import the purchases as history, moved so that some silences cross their limit soon. Returns the plan."""
    rows = sum(map(len, bought.values()))
    out.print(
        f"[bold]2. Real purchases[/bold]: {rows:,} by {len(bought)} CDNOW customers, 1997-1998, moved to today ..."
    )
    now_ms = clock.now_ms()
    wanted = [now_ms + FIRST_CROSSING_MS + n * SPACING_MS for n in range(CROSSINGS)]
    planned = plan(bought, now_ms, wanted, definition_of(first_definition(house.access.workspace)))
    file = folder / "purchases.jsonl"
    file.write_bytes(b"\n".join(map(msgspec.json.encode, touchpoints(bought, planned))) + b"\n")
    if importing.run(house, importing.Asked(file), out, out, as_json=False) != DONE:
        raise CommandError("the house refused some of the demo's purchases", "the lines above say why")
    return planned


def watch(
    bought: Mapping[str, list[Bought]], planned: Plan, listening: Listening, clock: Clock, out: Console
) -> dict[str, Seen]:
    """Do nothing until every planned silence has crossed. Returns what was seen, by customer."""
    out.print(
        f"[bold]3. Silence[/bold]: nobody does anything. {len(planned.crossings)} customers become "
        "unusually silent soon:"
    )
    seen: dict[str, Seen] = {}
    last = max(planned.crossings.values())
    by_order = {order_key(row): customer for customer in planned.crossings for row in bought[customer]}
    while len(seen) < len(planned.crossings):
        found = listening.next((last - clock.now_ms()) / 1000 + PATIENCE_SECONDS)
        if found is None:
            out.print(f"[red]{len(planned.crossings) - len(seen)} alerts did not come in time.[/red]")
            break
        customer = by_order.get(said.opening_key(found.event))
        if customer is not None:
            seen[customer] = found
            out.print(crossing_line(customer, planned.crossings[customer], found), highlight=False)
    return seen


def complain(
    house: House, bought: Mapping[str, list[Bought]], planned: Plan, listening: Listening, clock: Clock, out: Console
) -> None:
    """A good customer complains: one touchpoint in, one alert with its reasons out."""
    customer = max((name for name in bought if name not in planned.crossings), key=lambda name: len(bought[name]))
    out.print(f"[bold]4. A complaint[/bold] of {user_id(customer)}, who bought {len(bought[customer])} times ...")
    complaint = {
        "id": f"complaint-of-{customer}",
        "kind": "complained",
        "user_id": user_id(customer),
        "occurred_at": clock.now_ms(),
        "properties": {"complaint_id": f"C-{customer}"},
    }
    posted_ms = clock.now_ms()
    with house.ingest() as ingest:
        ingest.post("/v1/touchpoints", complaint)
    while (found := listening.next(PATIENCE_SECONDS)) is not None:
        if said.data_of(found.event).get("policy") == BAD_EXPERIENCE:
            seconds, why = (found.at_ms - posted_ms) / 1000, said.why(said.data_of(found.event))
            out.print(Padding(f"alert seen {seconds:.2f} s later: {why}", INDENTED), highlight=False)
            return
    out.print("[red]   its alert did not come in time.[/red]")


def summary(bought: Mapping[str, list[Bought]], planned: Plan, seen: Mapping[str, Seen]) -> Table:
    """Planned and seen, side by side, at most 80 characters wide: `crossed` and `seen` count from the foreseen time."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "customer" else "right", no_wrap=True)
    for customer, at_ms in planned.crossings.items():
        found = seen.get(customer)
        if found is None:
            table.add_row(user_id(customer), str(len(bought[customer])), "", "", "", clock_time(at_ms), "never", "")
            continue
        reasons = said.reasons(found.event)
        table.add_row(
            user_id(customer),
            str(len(bought[customer])),
            said.days(reasons.get("silence_ms")),
            said.days(reasons.get("usual_gap_ms")),
            percent(1 - reasons["risk"]) if reasons.get("risk") is not None else "",
            clock_time(at_ms),
            f"{said.crossed_at_ms(found.event) - at_ms:+d} ms",
            f"{(found.at_ms - at_ms) / 1000:+.2f} s",
        )
    return table


def where_to_look(house: House, planned: Plan) -> str:
    """The URLs of this house, and requests to paste."""
    access = house.access
    someone = user_id(next(iter(planned.crossings)))
    return f"""
Look around while the house is up:
  API pages   {access.ingest_url}/docs   {access.profiles_url}/docs   {access.scoring_url}/docs
  a customer  curl -s -u {access.secret_key}: '{access.profiles_url}/v1/customers?identifier=user:{someone}'
  the alerts  {alerts_curl(access)}
"""


def wait_for_interrupt(out: Console) -> None:
    """Keep the house until Ctrl-C."""
    out.print("The house stays up until Ctrl-C; its folder goes with it.")
    try:
        while True:
            sleep(3600)
    except KeyboardInterrupt:
        out.print("Bye.")


def crossing_line(customer: str, planned_ms: int, found: Seen) -> str:
    """One line for one alert, of less than 80 characters: foreseen, decided, seen."""
    crossed_ms = said.crossed_at_ms(found.event)
    return (
        f"   [bold]{user_id(customer)}[/bold]  foreseen {clock_time(planned_ms)}  crossed {clock_time(crossed_ms)}  "
        f"seen {(found.at_ms - crossed_ms) / 1000:+.2f} s"
    )


def order_key(row: Bought) -> str:
    """The business key of a purchase: that of a customer's last one names their silence."""
    return f"order:{order_id(row)}"


def clock_time(at_ms: int) -> str:
    """Time of day in UTC, to the millisecond."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
