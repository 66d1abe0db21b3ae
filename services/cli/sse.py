"""Server-sent events as the browser standard reads them, with reconnection from the last id seen."""

from collections.abc import Callable, Iterable, Iterator
from time import sleep
from typing import NamedTuple

import httpx

from services.cli.errors import Refused, Unreachable
from services.cli.rest import CONNECT_SECONDS, Rest

SILENCE_SECONDS = 15.0
"""The stream's heartbeat comes at least every 5 s; three missed ones mean a dead connection."""
RECONNECT_SECONDS = 1.0


class Message(NamedTuple):
    """One event: its type, its data (lines joined), and the id to resume from."""

    event: str
    data: str
    id: str


def messages(lines: Iterable[str], last_id: str = "") -> Iterator[Message]:
    """Messages of a stream's lines (without line ends); comments and unknown fields are passed over."""
    event, data = "", list[str]()
    for line in lines:
        if not line:
            if data:
                yield Message(event or "message", "\n".join(data), last_id)
            event, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "id" and "\0" not in value:
            last_id = value


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines of a byte stream, split at LF or CRLF only: JSON may hold other characters that Python calls line ends."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode()


def follow(
    service: Rest,
    path: str,
    params: dict[str, str],
    connected: Callable[[], None] = lambda: None,
    last_id: str = "",
    pause: Callable[[float], None] = sleep,
) -> Iterator[Message]:
    """Messages for ever, across lost connections. Raises Refused on a 4xx, Unreachable when the first try fails."""
    ever_connected = False
    while True:
        try:
            headers = {"accept": "text/event-stream"} | ({"last-event-id": last_id} if last_id else {})
            timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
            with service.client.stream("GET", path, params=params, headers=headers, timeout=timeout) as answer:
                _check(service, answer)
                ever_connected = True
                connected()
                for message in messages(lines(answer.iter_bytes()), last_id):
                    last_id = message.id
                    yield message
        except httpx.TransportError as error:
            if not ever_connected:
                raise Unreachable(
                    f"{service.name} does not answer at {service.url} ({type(error).__name__})",
                    f"start the house with `raftar run`, or say where it is: RAFTAR_{service.name.upper()}_URL",
                ) from error
        pause(RECONNECT_SECONDS)


def _check(service: Rest, answer: httpx.Response) -> None:
    if 400 <= answer.status_code < 500:
        answer.read()
        raise Refused(answer.status_code, "refused", f"{service.name}: {answer.text[:200]}", "check RAFTAR_SECRET_KEY")
    if answer.status_code != 200:
        raise httpx.RemoteProtocolError(f"status {answer.status_code}")
