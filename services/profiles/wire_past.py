"""What REST says of the past and of where a number comes from: pydantic models with examples."""

from typing import Any

from pydantic import Field

from services.profiles.wire import CUSTOMER, Id, Shown, TouchpointShown
from shared.moments import Moment

EXAMPLE_ALERT = "0190163d-8694-739b-aea5-966c26f8ad91"


class AlertThen(Shown):
    """One alert as it was known then, by its last word up to that time."""

    alert_id: str = Field(examples=[EXAMPLE_ALERT])
    customer_id: Id
    state: str = Field(description="open, recovered, retracted, expired or judged", examples=["open"])
    revision: int
    recorded_at: Moment = Field(description="when that word was recorded")
    event: dict[str, Any] | None = Field(description="that word, the CloudEvent; null once the customer is erased")


class Past(Shown):
    """A customer under `as_of` and `known_at`: what was decided, and the state from which scoring computes anew."""

    customer_id: Id
    resolved_from: str | None = Field(description="the id or leaf asked for, where it is another one")
    as_of: Moment | None
    known_at: Moment | None
    complete: bool = Field(description="false while something recorded by `known_at` may still be on its way")
    first_at: Moment | None = Field(description="when the customer first did anything; null: nothing by then")
    stage: str | None = Field(description="as decided and recorded by then", examples=["active"])
    stage_at: Moment | None
    risk: float | None = Field(examples=[0.62])
    risk_at: Moment | None
    reasons: Any = Field(description="why the stage was set")
    alerts: list[AlertThen] = Field(description="all alerts known then, open and closed, the newest word first")
    state: str = Field(description="orders and subscriptions of the profile as base64: what decisions see of it")


class Contribution(Shown):
    """One touchpoint and what it did to the number."""

    contribution: float | int | None = Field(
        description="what it added; null where the value is not a sum but was said by one touchpoint"
    )
    value: Any = Field(description="the number after it, in order of time; the last one is the number shown")
    touchpoint: TouchpointShown


class Provenance(Shown):
    """From which touchpoints a number comes, oldest first. All contributions together are the number."""

    customer_id: str = Field(examples=[CUSTOMER])
    feature: str = Field(examples=["orders.count"])
    value: Any = Field(description="as the profile shows it", examples=[3])
    adds_up: bool = Field(description="whether the number is the sum of the contributions")
    as_of: Moment | None
    known_at: Moment | None
    items: list[Contribution]
    next: str | None = Field(description="hand it back as `next`; null on the last page")


class Features(Shown):
    """Everything about a customer that can be asked where it comes from."""

    customer_id: str = Field(examples=[CUSTOMER])
    features: dict[str, Any] = Field(description="name → value", examples=[{"orders.count": 3, "money.EUR": 12050}])
