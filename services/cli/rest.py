"""The command line's only way into the house: JSON over HTTP, with errors that say the next step."""

from collections.abc import Callable, Mapping
from time import sleep
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from services.cli.errors import Refused, Unreachable

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
PAUSE_MAX_SECONDS = 30.0
BUSY = frozenset({429, 502, 503, 504})

_NEXT_STEPS = {
    401: "check the key: RAFTAR_SECRET_KEY, or the one `make run` printed",
    403: "this key lacks the scope: use one with it (`raftar keys create --scope ...`)",
}


class Rest:
    """One service. `pause` waits the seconds it is given (tests hand in one that only writes them down)."""

    def __init__(self, name: str, url: str, key: str, pause: Callable[[float], None] = sleep) -> None:
        self.name, self.url = name, url.rstrip("/")
        self.pause = pause
        self.client = httpx.Client(
            base_url=self.url,
            auth=httpx.BasicAuth(key, ""),
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """The decoded body of a GET; parameters that are None are left out."""
        return self.send("GET", path, params=params)

    def post(self, path: str, body: Any = None, patience_seconds: float = 0.0) -> Any:
        """The decoded body of a POST; 429 and 503 are tried again for `patience_seconds`."""
        return self.send("POST", path, body=body, patience_seconds=patience_seconds)

    def delete(self, path: str) -> Any:
        """The decoded body of a DELETE."""
        return self.send("DELETE", path)

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        patience_seconds: float = 0.0,
    ) -> Any:
        """Send until there is an answer that will stay the same.

        No connection, 429 and 5xx of a busy server are tried again: after `Retry-After` where it is given, else
        after 1, 2, 4 ... 30 s, until the pauses add up to `patience_seconds`. Raises Refused (4xx, or an answer
        that is no JSON), Unreachable.
        """
        content = None if body is None else msgspec.json.encode(body)
        headers = {"content-type": "application/json"} if content is not None else {}
        query = {name: value for name, value in (params or {}).items() if value is not None}
        waited_seconds, attempt = 0.0, 0
        while True:
            try:
                answer = self.client.request(method, path, params=query, content=content, headers=headers)
            except httpx.TransportError as error:
                pause_seconds, trouble = min(2.0**attempt, PAUSE_MAX_SECONDS), self._no_answer(error)
            else:
                if answer.status_code not in BUSY:
                    return self._body(answer)
                pause_seconds, trouble = _retry_after(answer, attempt), self._busy(answer)
            if waited_seconds + pause_seconds > patience_seconds:
                raise trouble
            self.pause(pause_seconds)
            waited_seconds += pause_seconds
            attempt += 1

    def _no_answer(self, error: httpx.TransportError) -> Unreachable:
        return Unreachable(
            f"{self.name} does not answer at {self.url} ({type(error).__name__})",
            f"start the house with `raftar run`, or say where it is: RAFTAR_{self.name.upper()}_URL",
        )

    def _busy(self, answer: httpx.Response) -> Unreachable:
        _, message = _error_of(answer)
        return Unreachable(f"{self.name} is not accepting now: {message}", "nothing was lost: run it again in a while")

    def _body(self, answer: httpx.Response) -> Any:
        if answer.status_code >= 400:
            code, message = _error_of(answer)
            raise Refused(answer.status_code, code, f"{self.name}: {message}", _NEXT_STEPS.get(answer.status_code, ""))
        if not answer.content:
            return None
        try:
            return msgspec.json.decode(answer.content)
        except msgspec.DecodeError as error:
            raise Refused(
                answer.status_code,
                "not_json",
                f"{self.url} answers, but not as Raftar does ({error})",
                f"another program may stand on this port: set RAFTAR_{self.name.upper()}_URL",
            ) from error


def path_part(text: str) -> str:
    """`text` as one part of a path, whatever it holds."""
    return quote(text, safe="")


def _retry_after(answer: httpx.Response, attempt: int) -> float:
    told = answer.headers.get("retry-after", "")
    return float(told) if told.isdigit() else min(2.0**attempt, PAUSE_MAX_SECONDS)


def _error_of(answer: httpx.Response) -> tuple[str, str]:
    """The flat `code` and `message` of an error body, or what can be said without them."""
    try:
        body = msgspec.json.decode(answer.content)
        return str(body["code"]), str(body["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"http_{answer.status_code}", f"status {answer.status_code}"
