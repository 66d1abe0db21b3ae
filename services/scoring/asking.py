"""Asks profiles about a customer's past, with the caller's own key: only profiles keeps what happened, and when.

Nothing else in scoring waits for it; where profiles does not answer, only questions about the past are put off.
"""

from base64 import b64decode
from datetime import datetime
from typing import Any

import httpx
import msgspec

from shared.errors import InvalidField, NotFound, Retryable
from shared.ids import leaf_text

ANSWER_SECONDS = 10.0
CONNECT_SECONDS = 2.0


class AlertTold(msgspec.Struct, frozen=True):
    """One alert by its last word then; `event` is None once the customer is erased."""

    alert_id: str
    customer_id: str
    state: str
    revision: int
    recorded_at: datetime
    event: dict[str, Any] | None


class Told(msgspec.Struct, frozen=True):
    """What profiles says of a customer under a cut. `state`: base64 of the profile state that decisions see."""

    customer_id: str
    complete: bool
    stage: str | None
    stage_at: datetime | None
    risk: float | None
    risk_at: datetime | None
    reasons: Any
    alerts: list[AlertTold]
    state: str
    first_at: datetime | None

    @property
    def state_bytes(self) -> bytes:
        """The state as bytes."""
        return b64decode(self.state)


class _Problem(msgspec.Struct):
    message: str = ""
    field: str = ""


class Profiles:
    """Profiles as REST shows it, at `url`."""

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(
            base_url=url, timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS), trust_env=False
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def past(
        self, authorization: str, customer: bytes, as_of: datetime | None, known_at: datetime | None
    ) -> Told:
        """What was decided and had happened by then. Raises NotFound, InvalidField, Retryable."""
        query = {"as_of": as_of, "known_at": known_at}
        try:
            answer = await self._client.get(
                f"/v1/customers/{leaf_text(customer)}/past",
                params={name: at.isoformat() for name, at in query.items() if at is not None},
                headers={"authorization": authorization},
            )
        except httpx.HTTPError as error:
            raise _away(type(error).__name__) from None
        if answer.status_code == httpx.codes.OK:
            return _told(answer.content)
        raise _refused(answer)


def _told(body: bytes) -> Told:
    try:
        return msgspec.json.decode(body, type=Told)
    except msgspec.MsgspecError:
        raise _away("its answer is not one of profiles") from None


def _refused(answer: httpx.Response) -> Exception:
    try:
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem()
    if answer.status_code == httpx.codes.NOT_FOUND:
        return NotFound(problem.message or "no such customer")
    if answer.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY):
        return InvalidField(problem.field, problem.message.removeprefix(f"{problem.field}: "))
    return _away(f"status {answer.status_code}")


def _away(why: str) -> Retryable:
    return Retryable(
        f"the past is asked of profiles, which does not answer now ({why}); try again, or look at RAFTAR_PROFILES_URL"
    )
