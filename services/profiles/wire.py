"""What REST says and hears: pydantic models with examples. Times are RFC 3339 in UTC, money is in minor units."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from shared.moments import Moment

CUSTOMER = "00b1946ac92492d2347c6235b4d26112"
KIND_NAMES = ("user", "email", "phone", "provider", "anonymous")
"""Family of an identifier by the rank of its leaf, where its own kind is not known."""

Id = Annotated[str, Field(description="32 hexadecimal digits", examples=[CUSTOMER])]


class Shown(BaseModel):
    """Base of all answers: nothing beyond what is declared."""

    model_config = ConfigDict(extra="forbid")


class IdentifierShown(Shown):
    """One identifier of a customer and why it has its place."""

    leaf: Id
    kind: str = Field(description="user, email, phone, provider:<name> or anonymous")
    value: str | None = Field(description="as normalised; null where it was never told, erased or its key destroyed")
    reason: str = Field(description="joined, alone, shared, aliased, crowded, crowded_aliases, hidden or erased")
    explanation: str = Field(description="the place in one sentence")


class Identifiers(Shown):
    """All identifiers of a customer, by rank."""

    customer_id: Id
    identifiers: list[IdentifierShown]


class PersonalShown(Shown):
    """What is known of the person in the clear, each value by its last writer."""

    traits: dict[str, Any] = Field(examples=[{"name": "Sara"}])
    context: dict[str, Any] = Field(examples=[{"ip": "192.0.2.7"}])


class CustomerView(Shown):
    """One customer: who, what happened, where they stand and why."""

    customer_id: Id
    resolved_from: str | None = Field(description="the id or leaf asked for, where it is another one")
    as_of: Moment | None = Field(None, description="what happened up to here counts; null: everything")
    known_at: Moment | None = Field(None, description="what was recorded up to here counts; null: everything")
    complete: bool = Field(True, description="false while something recorded by `known_at` may still be on its way")
    version: int | None = Field(description="grows with every change of the profile; null in the past")
    first_at: Moment | None
    last_at: Moment | None
    stage: str | None = Field(description="as decided last; null before the first decision", examples=["active"])
    stage_at: Moment | None
    risk: float | None = Field(
        description="probability of no purchase within the horizon, as decided last", examples=[0.62]
    )
    risk_at: Moment | None = Field(description="the instant `risk` was decided for")
    reasons: Any = Field(description="why the stage was set")
    alerts: list[dict[str, Any]] = Field(description="open alerts, as `churn-alerts` carries them, times as RFC 3339")
    identifiers: list[IdentifierShown]
    personal: PersonalShown
    profile: dict[str, Any] = Field(description="counts, orders, money, tickets, surveys, subscription, traits …")
    facts: str = Field(
        description="where each number of `profile` comes from: this path with a name behind it, e.g. /orders.count",
        examples=[f"/v1/customers/{CUSTOMER}/facts"],
    )


class CustomerListed(Shown):
    """One line of the list."""

    customer_id: Id
    identifier: str | None = Field(description="kind:value of its highest identifier", examples=["user:42"])
    first_at: Moment
    last_at: Moment
    purchases: int
    spend_minor: int = Field(description="net, in minor units of `currency`, the one most was spent in")
    currency: str = Field(examples=["EUR"])
    stage: str | None
    stage_at: Moment | None
    risk: float | None
    risk_at: Moment | None


class CustomerPage(Shown):
    """A page of customers."""

    items: list[CustomerListed]
    next: str | None = Field(description="hand it back as `next`; null on the last page")


class TouchpointShown(Shown):
    """One touchpoint of a timeline. `text`: its personal words, where they are still readable."""

    id: str = Field(examples=["0190163d-8694-739b-aea5-966c26f8ad91"])
    leaf: Id
    kind: str = Field(examples=["purchased"])
    name: str = Field(description="as the client named it, of `custom` ones")
    channel: str = Field(examples=["web"])
    occurred_at: Moment
    received_at: Moment | None
    recorded_at: Moment
    client_at: str | None = Field(description="the client's own time, exactly as sent")
    source: str = Field(examples=["website"])
    trust: str = Field(description="public, provider or secret: what kind of key brought it")
    import_id: str
    properties: dict[str, Any] = Field(examples=[{"order_id": "A-1", "amount_minor": 1250, "currency": "EUR"}])
    context: dict[str, Any]
    text: dict[str, Any]
    erased: bool


class TimelinePage(Shown):
    """A page of a timeline, newest first."""

    customer_id: Id
    items: list[TouchpointShown]
    next: str | None = Field(description="hand it back as `next`; null on the last page")


Named = Annotated[
    str,
    StringConstraints(min_length=1, max_length=600),
    Field(description="kind:value, or a leaf or customer id (32 hexadecimal digits)"),
]


class TieWanted(BaseModel):
    """Two identifiers of which a person knows something, and why."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"a": "user:42", "b": "email:sara@example.com", "reason": "said so by phone"}]},
    )

    a: Named
    b: Named
    reason: Annotated[str, StringConstraints(max_length=500)] = Field(
        "", description="kept in the log for ever: name no person in it"
    )


class Side(Shown):
    """One of the two, as it stands before."""

    leaf: Id
    kind: str
    customer_id: Id


class Move(Shown):
    """A leaf that changes its customer."""

    leaf: Id
    from_customer: Id
    to_customer: Id


class TieAccepted(Shown):
    """The command is kept and will be folded in a moment; what it will do, as things stood."""

    id: str = Field(description="of the command in the log", examples=["0190163d-8694-739b-aea5-966c26f8ad91"])
    command: Literal["link", "unlink"]
    a: Side
    b: Side
    one_customer: bool = Field(description="whether both belong to one customer afterwards")
    moves: list[Move]
    consequence: str = Field(examples=["1 identifier moves; both are one customer afterwards."])


class ReplayNeeds(Shown):
    """What `POST /v1/replay` of ingest takes beside the item."""

    failed_id: str
    source: str
    trust: Literal["public", "provider", "secret"]
    native: bool = Field(description="sent as a touchpoint, not in a Segment batch")
    received_at: Moment
    sent_at: Moment | None
    context: dict[str, Any]


class ReplayWanted(BaseModel):
    """Which parked events to replay: by their ids, or all open ones, of one source or of every."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"ids": ["touchpoints.3.1042.0"]}]}
    )

    ids: Annotated[list[Annotated[str, StringConstraints(max_length=128)]], Field(max_length=200)] = []
    all: bool = False
    source: Annotated[str, StringConstraints(max_length=64)] = ""


class ReplayResult(Shown):
    """What became of one. `for_the_door`: a refused item; post it to `/v1/replay` of ingest."""

    id: str
    status: Literal["replayed", "closed", "still_failing", "missing", "for_the_door"]
    reason: str


class ReplayResults(Shown):
    """One result an event. `more`: there are further open ones; ask again."""

    results: list[ReplayResult]
    more: bool


class FailureShown(Shown):
    """An event that did not count. `refused`: by the door · `parked`: it could not be folded."""

    id: str
    what: Literal["refused", "parked"]
    at: Moment
    source: str
    code: str
    path: str = Field(description="of the wrong field, of refused ones")
    reason: str
    item: Any = Field(
        description="as sent (refused) or as kept (parked), for the scope `admin`; null where its key was destroyed"
    )
    position: str | None = Field(description="topic/partition/position/index in the log, of parked ones")
    state: Literal["open", "replayed", "discarded", "erased"] = "open"
    closed_at: Moment | None = None
    personal: dict[str, Any] | None = Field(None, description="of a parked touchpoint, for the scope `admin` alone")
    replay: ReplayNeeds | None = Field(None, description="what the door needs beside the item, of open refused ones")


class FailurePage(Shown):
    """A page of failures, newest first."""

    items: list[FailureShown]
    next: str | None = Field(description="hand it back as `next`; null on the last page")
