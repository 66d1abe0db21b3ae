"""`raftar keys`: make, list and revoke API keys through ingest's REST."""

from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from services.cli.errors import WrongUse
from services.cli.house import House
from services.cli.printing import moment, print_json
from services.cli.rest import path_part

DATE = slice(10)


class Kind(StrEnum):
    """The two kinds of keys."""

    WRITE = "write"
    SECRET = "secret"  # noqa: S105  (a word, not a secret)


class Scope(StrEnum):
    """What a secret key may be allowed to do."""

    WRITE = "write"
    READ = "read"
    ACT = "act"
    ADMIN = "admin"


def create(house: House, kind: Kind, source: str, scopes: list[Scope], label: str, out: Console, as_json: bool) -> None:
    """Make a key and show it, once. A write key has the scope `write` alone; a secret one needs at least one."""
    if kind is Kind.SECRET and not scopes:
        raise WrongUse("a secret key needs scopes", "add --scope read, --scope write, --scope act or --scope admin")
    if kind is Kind.WRITE and set(scopes) - {Scope.WRITE}:
        raise WrongUse("a write key is public and may only write", "make a secret key instead")
    body = {"kind": kind, "source": source, "scopes": scopes or [Scope.WRITE], "label": label}
    with house.ingest() as ingest:
        made = ingest.post("/v1/keys", body)
    if as_json:
        print_json(out, made)
        return
    out.print(f"[bold]{made['key']}[/bold]", highlight=False, soft_wrap=True)
    out.print("Keep it now: it is shown only this once.")


def list_keys(house: House, out: Console, as_json: bool) -> None:
    """All keys, revoked ones too."""
    with house.ingest() as ingest:
        keys = _items(ingest.get("/v1/keys"), "keys")
    if as_json:
        print_json(out, keys)
        return
    dates = (Column("created", no_wrap=True), Column("revoked", no_wrap=True))
    names = (Column("key id", no_wrap=True), "kind", Column("source", no_wrap=True))
    table = Table(*names, "scopes", "label", *dates, box=None)
    for key in keys:
        table.add_row(
            key["key_id"],
            key["kind"],
            key["source"],
            " ".join(key["scopes"]),
            key.get("label", ""),
            moment(key.get("created_at"))[DATE],
            moment(key.get("revoked_at"))[DATE],
        )
    out.print(table)


def revoke(house: House, key_id: str, out: Console, as_json: bool) -> None:
    """Revoke one key."""
    with house.ingest() as ingest:
        answer = ingest.delete(f"/v1/keys/{path_part(key_id)}")
    if as_json:
        print_json(out, answer or {"key_id": key_id})
    else:
        out.print(f"{key_id} is revoked.", highlight=False)


def _items(answer: Any, name: str) -> list[dict[str, Any]]:
    return list(answer[name] if isinstance(answer, dict) else answer)
