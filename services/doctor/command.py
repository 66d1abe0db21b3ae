"""`doctor`: every check in turn, what is wrong and the next step. No check can keep the others from being made."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
from rich.console import Console

from services.all_in_one import AllInOneSettings
from services.doctor import machine, stores
from services.doctor.finding import Finding, Level, fail, failed, shown
from services.first_start import open_log
from shared.clock import Clock
from shared.errors import RaftarError
from shared.lane import named
from shared.log.port import Log

SERVICES = ("profiles", "scoring")
CHECK_SECONDS = 30.0
MARKS = {Level.OK: "[green]ok  [/green]", Level.WARN: "[yellow]look[/yellow]", Level.FAIL: "[red]FAIL[/red]"}


async def examine(settings: AllInOneSettings, clock: Clock) -> AsyncIterator[Finding]:
    """Every finding about the house, in the order in which they matter."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "versions": machine.versions,
        "folder": lambda: machine.data_folder(settings),
        "clock": lambda: machine.clock(clock),
        "keys": lambda: machine.keys(settings),
        "ports": lambda: machine.ports(settings),
    }
    for name, check in checks.items():
        try:
            found = await asyncio.to_thread(lambda check=check: list(check()))  # type: ignore[misc]
        except (
            Exception
        ) as error:  # a house broken in a way nobody thought of: the other checks are needed all the more
            found = [_broken(name, error)]
        for finding in found:
            yield finding
    try:
        async with open_log(settings, clock) as log:
            async for finding in _stores(settings, clock, log):
                yield finding
    except (RaftarError, OSError, TimeoutError) as error:
        yield _broken("log", error)


async def _stores(settings: AllInOneSettings, clock: Clock, log: Log) -> AsyncIterator[Finding]:
    found: stores.Topics = {}
    parts: list[tuple[str, Callable[[], AsyncIterator[Finding]]]] = [
        *([("kafka", lambda: _brokers(settings))] if settings.kafka_bootstrap else []),
        ("log", lambda: stores.log(settings, log, clock, found)),
        ("keys", lambda: stores.workspaces(settings, log, found)),
    ]
    parts += [(f"database {service}", _of_database(settings, service, clock, found, log)) for service in SERVICES]
    for name, part in parts:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                findings = [finding async for finding in part()]
        except Exception as error:  # as above
            findings = [_broken(name, error)]
        for finding in findings:
            yield finding


def _brokers(settings: AllInOneSettings) -> AsyncIterator[Finding]:
    from services.doctor.brokers import brokers  # only a house on Kafka pays for loading its client

    return brokers(settings)


def _of_database(
    settings: AllInOneSettings, service: str, clock: Clock, found: stores.Topics, log: Log
) -> Callable[[], AsyncIterator[Finding]]:
    return lambda: stores.database(settings, service, clock, found, log if found else None)


def _broken(check: str, error: Exception) -> Finding:
    return fail(
        check, f"it could not be checked ({named(error)})", "mend what the other lines say first, then ask again"
    )


def doctor_command(settings: AllInOneSettings, clock: Clock, console: Console, as_json: bool) -> int:
    """Examine and tell; 1 where anything is broken, else 0."""
    findings = asyncio.run(_told(settings, clock, console, as_json))
    if as_json:
        said = msgspec.json.encode({"ok": not failed(findings), "checks": findings}).decode()
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(shown(findings))
    return int(failed(findings))


async def _told(settings: AllInOneSettings, clock: Clock, console: Console, as_json: bool) -> list[Finding]:
    findings = []
    async for finding in examine(settings, clock):
        findings.append(finding)
        if not as_json:
            _print(console, finding)
    return findings


def _print(console: Console, finding: Finding) -> None:
    console.print(MARKS[finding.level], end="  ")
    console.print(f"{finding.check}: {finding.says}", markup=False, highlight=False, soft_wrap=True)
    if finding.next_step:
        console.print(f"      → {finding.next_step}", markup=False, highlight=False, soft_wrap=True, style="bold")
