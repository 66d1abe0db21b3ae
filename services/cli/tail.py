"""`raftar tail`: what the house says, as it says it, over server-sent events."""

from collections.abc import Iterator
from enum import StrEnum
from functools import partial
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from services.cli import said
from services.cli.house import House
from services.cli.printing import percent, print_json
from services.cli.sse import Message, follow

STREAM = "/v1/alerts/stream"


class Topic(StrEnum):
    """What can be followed."""

    ALERTS = "alerts"
    SEGMENTS = "segments"


def run(house: House, topic: Topic, out: Console, err: Console, as_json: bool) -> None:
    """Follow until Ctrl-C; one line for each event. Raises Refused, Unreachable."""
    with house.scoring() as scoring:
        hello = partial(err.print, f"[dim]following {topic} ...[/dim]")
        said = follow(scoring, STREAM, {"types": topic.value}, hello)
        for event in events(said):
            if as_json:
                print_json(out, event)
            else:
                out.print(line(event), soft_wrap=True)


def events(messages: Iterator[Message]) -> Iterator[dict[str, Any]]:
    """The CloudEvents among the messages."""
    for message in messages:
        event = msgspec.json.decode(message.data)
        if isinstance(event, dict) and "type" in event:
            yield event


def line(event: dict[str, Any]) -> Text:
    """One CloudEvent as one line: when, what, who, how likely they leave, why."""
    data = said.data_of(event)
    text = Text()
    text.append(f"{event.get('time', '')}  ", style="dim")
    text.append(f"{str(event['type']).removeprefix('raftar.')}  ", style="bold")
    text.append(f"{event.get('subject', '')}  ", style="cyan")
    if data.get("stage"):
        text.append(f"{data.get('previous') or 'nobody'} → {data['stage']}  ")
    if (risk := data.get("risk")) is not None:
        text.append(f"risk {percent(risk)}  ")
    text.append(said.why(data))
    return text
