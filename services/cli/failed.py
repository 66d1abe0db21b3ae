"""`raftar failed`: events that did not count. See why, mend the cause, replay them; nothing counts twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from services.cli.errors import EXIT_CODES, REFUSED, WrongUse
from services.cli.house import CliSettings, House, find_house
from services.cli.printing import moment, print_json
from services.cli.rest import Rest, path_part

PAGE = 200
AT_THE_DOOR = 20
"""So many items go to the door in one request: each may have a quarter of a megabyte."""
PATIENCE_SECONDS = 30.0

Shown = dict[str, Any]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for scripts: one document.")]
FailedId = Annotated[str, typer.Argument(metavar="ID", help="As `raftar failed list` shows it.")]
Source = Annotated[str, typer.Option(help="Only of this source.")]

failed_app = typer.Typer(
    no_args_is_help=True,
    help="Events that did not count: refused at the door, or parked by the fold.",
    epilog="Exit codes: " + " · ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()),
)


@failed_app.command("list", epilog="Example: raftar failed list   ·   raftar failed list --source website --json")
def list_command(
    state: Annotated[str, typer.Option(help="open, closed or all.")] = "open",
    what: Annotated[str, typer.Option(help="refused or parked; both where nothing is said.")] = "",
    source: Source = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """What failed, newest first, with its reason."""
    with find_house(CliSettings()).profiles() as profiles:
        found = list(_pages(profiles, {"state": state, "what": what, "source": source}, limit))
    out = Console()
    if as_json:
        print_json(out, found)
        return
    table = Table(Column("id", no_wrap=True), "when", "what", "source", "reason", box=None)
    for one in found:
        what_happened = one["what"] if one["state"] == "open" else f"{one['what']}, {one['state']}"
        reason = f"{one['path']}: {one['reason']}" if one["path"] else one["reason"]
        table.add_row(one["id"], moment(one["at"]), what_happened, escape(one["source"]), escape(reason))
    out.print(table)


@failed_app.command("show", epilog="Example: raftar failed show ID   ·   raftar failed show ID --item > item.json")
def show_command(
    failed_id: FailedId,
    item: Annotated[bool, typer.Option("--item", help="Only the item as it was sent, to mend it.")] = False,
    as_json: AsJson = False,
) -> None:
    """One of them, whole. Needs a key with the scope admin to see the item."""
    with find_house(CliSettings()).profiles() as profiles:
        found = profiles.get(f"/v1/failed/{path_part(failed_id)}")
    out = Console()
    if item:
        if found["item"] is None:
            raise WrongUse("its item cannot be read", "it is closed, its key was destroyed, or your key lacks `admin`")
        out.print(_json_text(found["item"]), soft_wrap=True, highlight=False, markup=False, emoji=False)
    elif as_json:
        print_json(out, found)
    else:
        out.print(_json_text(found), soft_wrap=True, highlight=False, markup=False, emoji=False)


@failed_app.command(
    "replay",
    epilog="Example: raftar failed replay ID --item item.json   ·   raftar failed replay --all --source website",
)
def replay_command(
    failed_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Which ones.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every open one.")] = False,
    source: Source = "",
    item: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="The item, mended.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take them in again, after their cause was mended. One that fails again stays open; nothing counts twice."""
    if bool(failed_ids) == every:
        raise WrongUse("it is not said which ones", "name their ids, or say --all")
    if item is not None and len(failed_ids or []) != 1:
        raise WrongUse("--item is for one event", "name its id")
    mended = None if item is None else _mended(item)
    results = replay(find_house(CliSettings()), failed_ids or [], source, mended)
    out = Console()
    if as_json:
        print_json(out, results)
    else:
        _show_results(out, results)
    if any(one["status"] not in ("replayed", "closed") for one in results):
        raise typer.Exit(REFUSED)


@failed_app.command("discard", epilog="Example: raftar failed discard 0190163d-8694-739b-aea5-966c26f8ad91 --yes")
def discard_command(
    failed_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Which ones.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Close them without a replay: what they held is dropped."""
    if not yes and not typer.confirm(f"Discard {len(failed_ids)} events for good?", err=True):
        raise WrongUse("nothing was discarded", "say yes, or --yes in a script")
    with find_house(CliSettings()).profiles() as profiles:
        closed = [profiles.delete(f"/v1/failed/{path_part(one)}") for one in failed_ids]
    out = Console()
    if as_json:
        print_json(out, closed)
    else:
        out.print(f"{len(closed)} discarded.")


def replay(house: House, failed_ids: list[str], source: str, mended: Any = None) -> list[Shown]:
    """Replay these, or every open one of `source` ("" = of every): parked ones by profiles, refused ones by the door.

    Returns one result an event: its id, a status and a reason. Raises Refused.
    """
    results: list[Shown] = []
    with house.profiles() as profiles, house.ingest() as ingest:
        if failed_ids:
            for_the_door = []
            for start in range(0, len(failed_ids), PAGE):
                told = profiles.post("/v1/failed/replay", {"ids": failed_ids[start : start + PAGE]})["results"]
                for_the_door += [one["id"] for one in told if one["status"] == "for_the_door"]
                results += [one for one in told if one["status"] != "for_the_door"]
            items = [profiles.get(f"/v1/failed/{path_part(one)}") for one in for_the_door]
        else:
            results += _every_parked(profiles, source)
            items = list(_pages(profiles, {"state": "open", "what": "refused", "source": source}, None))
        results += _at_the_door(ingest, items, mended)
    return results


def _every_parked(profiles: Rest, source: str) -> list[Shown]:
    results: list[Shown] = []
    while True:
        told = profiles.post("/v1/failed/replay", {"all": True, "source": source})
        results += told["results"]
        if not told["more"]:
            return results


def _at_the_door(ingest: Rest, items: list[Shown], mended: Any) -> list[Shown]:
    results = [_unreadable(one) for one in items if not _can_be_sent(one, mended)]
    ready = [_again(one, mended) for one in items if _can_be_sent(one, mended)]
    for start in range(0, len(ready), AT_THE_DOOR):
        body = {"items": ready[start : start + AT_THE_DOOR]}
        for one in ingest.post("/v1/replay", body, patience_seconds=PATIENCE_SECONDS)["results"]:
            reason = f"{one['field']}: {one['reason']}" if one["field"] else one["reason"]
            status = "replayed" if one["status"] == "replayed" else "still_failing"
            results.append({"id": one["failed_id"], "status": status, "reason": reason})
    return results


def _can_be_sent(failed: Shown, mended: Any) -> bool:
    return failed["replay"] is not None and (mended is not None or isinstance(failed["item"], dict))


def _unreadable(failed: Shown) -> Shown:
    why = "its item is no JSON object: mend it (--item)" if failed["replay"] else "its item cannot be read any more"
    return {"id": failed["id"], "status": "still_failing", "reason": why}


def _again(failed: Shown, mended: Any) -> Shown:
    item = failed["item"] if mended is None else mended
    return {**failed["replay"], "item": item, "edited": mended is not None and mended != failed["item"]}


def _pages(profiles: Rest, wish: Shown, limit: int | None) -> Iterator[Shown]:
    after: str | None = None
    while limit is None or limit > 0:
        size = PAGE if limit is None else min(PAGE, limit)
        page = profiles.get("/v1/failed", {**wish, "limit": size, "next": after})
        yield from page["items"]
        after = page["next"]
        if after is None:
            return
        limit = None if limit is None else limit - size


def _mended(item: Path) -> Any:
    try:
        return msgspec.json.decode(item.read_bytes())
    except msgspec.DecodeError as error:
        raise WrongUse(f"{item} is no JSON: {error}", "mend the file and run it again") from error


def _json_text(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _show_results(out: Console, results: list[Shown]) -> None:
    counts = {"replayed": 0, "closed": 0}
    for one in results:
        if one["status"] in counts:
            counts[one["status"]] += 1
        else:
            out.print(f"{one['id']}  {one['status'].replace('_', ' ')}: {escape(one['reason'])}", highlight=False)
    out.print(
        f"{counts['replayed']} replayed, {counts['closed']} closed before, {len(results) - sum(counts.values())} left"
    )
