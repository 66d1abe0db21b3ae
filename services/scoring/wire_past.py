"""What REST says of the past: what was decided by then, and beside it what the rules say anew."""

from typing import Any

from pydantic import Field

from services.scoring.wire import AlertShown, Id, Shown
from shared.moments import Moment


class DecidedThen(Shown):
    """`decided`: what Raftar had said, by facts recorded by `known_at` that speak of an instant up to `as_of`."""

    stage: str | None = Field(examples=["active"])
    stage_since: Moment | None
    risk: float | None = Field(description="as said last")
    risk_at: Moment | None
    reasons: Any = Field(description="why the stage was set")
    alerts: list[AlertShown] = Field(description="alerts open then, by their last word")


class ComputedThen(Shown):
    """`computed`: what the rules in force at `at` say of what had happened, as if all of it had been known in time."""

    at: Moment
    definition_version: int = Field(description="of the rules and model in force at `at`")
    stage: str | None = Field(examples=["at_risk"])
    risk: float | None = Field(description="probability of no purchase within the horizon from `at`")
    reasons: dict[str, Any] = Field(description="why the risk is what it is, and the conditions of the stage")
    silent_since: Moment | None = Field(description="the exact crossing of a silence that holds at `at`")


class PastDecision(Shown):
    """Where a customer stood: what was decided, and what the rules say anew. They differ where evidence came late."""

    customer_id: Id
    resolved_from: str | None = Field(description="the id asked for, where it was part of this customer")
    as_of: Moment | None = Field(description="what happened up to here counts; null: everything")
    known_at: Moment | None = Field(description="what was recorded up to here counts; null: everything")
    complete: bool = Field(description="false while something recorded by `known_at` may still be on its way")
    decided: DecidedThen
    computed: ComputedThen | None = Field(description="null for somebody who had done nothing yet")
