"""What REST says and hears of erasures and sealing keys."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services.profiles.wire import CUSTOMER, Id, Shown
from shared.moments import Moment

_ERASURE = "0190163d-8694-739b-aea5-966c26f8ad91"


class LeafReceipt(Shown):
    """What was done about one identifier. Times are null until it is done."""

    leaf: Id
    kind: str = Field(description="user, email, phone, provider or anonymous")
    erased_at: Moment | None = Field(description="its values are gone, its timeline is blank, later events are dropped")
    personal_values: int = Field(description="values in the clear that were deleted: identifier, traits, texts")
    bodies: int = Field(description="touchpoints of which only time and kind are left")
    stages_forgotten_at: Moment | None = Field(description="scoring has forgotten it, and so has this service")
    stages: int = Field(description="changes of stage that were deleted here")
    alerts_forgotten_at: Moment | None
    alerts: int = Field(description="words about alerts that were deleted here")


class KeyState(Shown):
    """A key the person's values were sealed to in the log."""

    name: str = Field(examples=["0001-5f2a9c01d3e4"])
    state: Literal["in_use", "retired", "destroyed"]
    destroyed_at: Moment | None


class SealedCopy(Shown):
    """The log's copy, which nobody can edit: unreadable for ever once every key is destroyed."""

    readable: bool
    unreadable_since: Moment | None
    keys: list[KeyState]
    next_step: str = Field(description="empty once it is unreadable", examples=["raftar keys rotate"])


class Receipt(Shown):
    """What an erasure has done so far."""

    id: str = Field(examples=[_ERASURE])
    customer_id: Id
    state: Literal["requested", "erasing", "erased"] = Field(description="erased: every service has forgotten them")
    requested_at: Moment
    erased_at: Moment | None = Field(description="when the last part was done")
    personal_values: int
    bodies: int
    leaves: list[LeafReceipt]
    freed_space_overwritten_at: Moment | None = Field(
        description="when this service's own database was rewritten, so that deleted bytes are not left in its files"
    )
    sealed_copy: SealedCopy
    elsewhere: list[str] = Field(description="what this receipt does not cover")


class ReinstateWanted(BaseModel):
    """An erased identifier that may be tracked again."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"identifier": "email:sara@example.com"}]}
    )

    identifier: Annotated[str, StringConstraints(min_length=3, max_length=600), Field(description="kind:value")]


class Reinstated(Shown):
    """The command is kept; from when it is folded on, new events of these identifiers count again."""

    leaves: list[Id]
    consequence: str = Field(examples=["2 identifiers are tracked again, from nothing; the past does not come back."])


class SealingKeyShown(Shown):
    """One key of the workspace that personal data is sealed to."""

    name: str = Field(examples=["0001-5f2a9c01d3e4"])
    state: Literal["prepared", "in_use", "retired", "destroyed"] = Field(
        description="prepared: made here, not told to the doors yet"
    )
    since: Moment | None = Field(description="doors sealed to it from then on")
    until: Moment | None
    last_used_at: Moment | None = Field(description="newest record met that is sealed to it, to the second")
    destroyed_at: Moment | None
    is_here: bool = Field(description="its private half is on the machine that answers")


class SealingKeys(Shown):
    """All sealing keys of the workspace, oldest first."""

    keys: list[SealingKeyShown]


class RotateWanted(BaseModel):
    """How to rotate. `prepare`: make the pair only, so that its files can be copied to other machines first."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"prepare": False}]})

    prepare: bool = False


__all__ = [
    "CUSTOMER",
    "KeyState",
    "LeafReceipt",
    "Receipt",
    "ReinstateWanted",
    "Reinstated",
    "RotateWanted",
    "SealedCopy",
    "SealingKeyShown",
    "SealingKeys",
]
