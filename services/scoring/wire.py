"""What REST says and hears: pydantic models with examples. Times are RFC 3339 in UTC with milliseconds."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from shared.moments import Moment

CUSTOMER = "00b1946ac92492d2347c6235b4d26112"
ALERT = "0190163d-8694-739b-aea5-966c26f8ad91"

Id = Annotated[str, Field(description="32 hexadecimal digits", examples=[CUSTOMER])]


class Shown(BaseModel):
    """Base of all answers: nothing beyond what is declared."""

    model_config = ConfigDict(extra="forbid")


class AlertShown(Shown):
    """One alert as it is now. `event` says all about it, as `churn-alerts` carried it last."""

    alert_id: str = Field(examples=[ALERT])
    customer_id: Id
    policy: str = Field(description="silence or bad_experience", examples=["silence"])
    state: str = Field(description="open, recovered, retracted, expired or judged", examples=["open"])
    revision: int = Field(description="grows with every change of the alert")
    raised_at: Moment
    acknowledged_at: Moment | None = Field(description="when a person took it up")
    risk: float | None = Field(description="probability of no purchase within the horizon", examples=[0.62])
    event: dict[str, Any] | None = Field(description="the newest CloudEvent about it; null once the customer is erased")


class AlertPage(Shown):
    """A page of alerts, newest raised first."""

    items: list[AlertShown]
    next: str | None = Field(description="hand it back as `next`; null on the last page")


class Verdict(BaseModel):
    """A person's word on an alert."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"verdict": "false_alarm"}]})

    verdict: Literal["true_alarm", "false_alarm"]


class Upcoming(Shown):
    """Something that time alone will bring, if the customer does nothing."""

    type: str = Field(examples=["raftar.alert.raised"])
    stage: str | None = Field(None, description="of a change of stage: the new one")
    policy: str | None = Field(None, description="of an alert")
    alert_id: str | None = None


class DecisionShown(Shown):
    """Where a customer stands: decided so far, true now, and next."""

    customer_id: Id
    resolved_from: str | None = Field(description="the id asked for, where it became part of this customer")
    version: int = Field(description="of the newest profile change read")
    definition_version: int = Field(description="of the rules and model that decide")
    stage: str | None = Field(examples=["active"])
    stage_since: Moment | None
    risk: float | None = Field(description="probability of no purchase within the horizon, as of `risk_at`")
    risk_at: Moment = Field(description="now")
    reasons: dict[str, Any] = Field(description="why the risk is what it is; its parts add up to it")
    settled_at: Moment | None = Field(description="silence is decided up to here")
    due_at: Moment | None = Field(description="when time alone changes something next")
    upcoming: list[Upcoming] = Field(description="what it will be")
    alerts: list[AlertShown] = Field(description="open alerts")
    held_by_imports: list[str] = Field(description="unfinished imports; until then only bad experience is decided")
    parked: str | None = Field(description="why nothing is decided any more: it waits for the next change")


class DefinitionShown(Shown):
    """One version of rules and model."""

    version: int
    effective_at: Moment
    in_force: bool
    built_in: bool = Field(description="as shipped, nobody published it")
    refused: str | None = Field(description="why it is not used; the older ones stay")
    rules: dict[str, Any]
    model: dict[str, Any]


class Definitions(Shown):
    """All versions, oldest first."""

    items: list[DefinitionShown]


class NewDefinition(BaseModel):
    """A version to publish; what is left out stays as it is in the newest version."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"model": {"horizon": "60d"}, "effective_at": "2026-04-01T00:00:00Z"}]},
    )

    rules: dict[str, Any] | None = Field(None, description="a whole rule pack")
    model: dict[str, Any] | None = Field(None, description="parameters of the model; the others are as shipped")
    effective_at: AwareDatetime | None = Field(
        None, description="at least 5 seconds ahead; left out: as soon as possible"
    )


class NewFit(BaseModel):
    """A fit to begin."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"publish": True}]})

    publish: bool = Field(True, description="false: only look; nothing changes")


class FitShown(Shown):
    """The last fit, or the one under way."""

    state: str = Field(description="running, published, unchanged, looked, refused or failed", examples=["published"])
    phase: str = Field(description="reading, fitting, publishing or done", examples=["done"])
    customers: int = Field(description="customers with a purchase read so far")
    started_at: Moment
    last_sign_at: Moment = Field(description="when it last said how far it is; when it ended")
    version: int | None = Field(description="the version that was published")
    reason: str | None = Field(description="why nothing was published; the model in force stays")
    figures: dict[str, Any] | None = Field(description="how good the fitted parameters are")


class ModelShown(Shown):
    """The model of one version."""

    version: int
    effective_at: Moment
    in_force: bool
    parameters: dict[str, Any]
    fit: dict[str, Any] | None = Field(description="figures of the fit; null: not fitted to this workspace")


class Models(Shown):
    """All versions of the model, oldest first."""

    items: list[ModelShown]
    last_fit: FitShown | None
    refit_at: Moment | None = Field(description="the next fit by the schedule; null without one")
