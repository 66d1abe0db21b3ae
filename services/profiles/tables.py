"""Tables of the profiles database. The workspace is inside every key: leaves and scopes are hashes over it."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)

from shared.checkpoint import REBUILD_CHECKPOINT, checkpoint_table
from shared.outbox import outbox_table
from shared.rebuild import projection_table, rebuild_table

metadata = MetaData()

checkpoint = checkpoint_table(metadata)
outbox = outbox_table(metadata)

projection = projection_table(metadata)
rebuild = rebuild_table(metadata)
rebuild_checkpoint = checkpoint_table(metadata, REBUILD_CHECKPOINT)

rebuild_touched = Table(  # leaves written since the last comparison, by either side; repeats are welcome
    "rebuild_touched",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("leaf", LargeBinary, nullable=False),
)

rebuild_differing = Table(  # leaves the comparison found different; `was`: their customer in the version before
    "rebuild_differing",
    metadata,
    Column("customer", LargeBinary, primary_key=True),
    Column("leaf", LargeBinary, primary_key=True),
    Column("was", LargeBinary, nullable=False),
    Column("workspace", Text, nullable=False),
    Column("features", Text, nullable=False),
)

_OF_OTHERS = text("root <> leaf")

leaf = Table(
    "leaf",
    metadata,
    Column("leaf", LargeBinary, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("standing", SmallInteger, nullable=False),
    Column("full_rank", SmallInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("merged", LargeBinary, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("moves", BigInteger, nullable=False),
    Column("erased", Boolean, nullable=False),
    Column("erased_at", BigInteger, nullable=False),
    Column("known", Boolean, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    # Of those who are somebody else's: most leaves are a customer of their own, and found by it.
    Index("leaf_by_root", "root", postgresql_where=_OF_OTHERS, sqlite_where=_OF_OTHERS),
    # Room in each page: a state that grows stays in place and touches no index (HOT).
    postgresql_with={"fillfactor": 70},
)

touchpoint = Table(
    "touchpoint",
    metadata,
    Column("day", Integer, nullable=False),
    Column("id", LargeBinary, nullable=False),
    Column("scope", LargeBinary, nullable=False),
    Column("workspace", Text, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("place", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("occurred_at", BigInteger, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    # A scope is of one leaf: what somebody does in a day lies side by side, while ids of theirs would lie anywhere.
    PrimaryKeyConstraint("day", "scope", "id"),
    Index("touchpoint_by_leaf", "leaf", "occurred_at"),
)

edge = Table(
    "edge",
    metadata,
    Column("a", LargeBinary, primary_key=True),
    Column("b", LargeBinary, primary_key=True),
    Column("id", LargeBinary, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("tie", Boolean, nullable=False),
    Column("alias", Boolean, nullable=False),
    Column("operator", Boolean, nullable=False),
    Column("occurred_at", BigInteger, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    Index("edge_by_b", "b"),
)

customer = Table(
    "customer",
    metadata,
    Column("customer", LargeBinary, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("first_seen_at", BigInteger, nullable=False),
    Column("last_seen_at", BigInteger, nullable=False),
    Column("purchases", Integer, nullable=False),
    Column("spend_minor", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    # The stage of `standing`, "" before the first: lists of one stage and of all are read from the same indexes.
    Column("stage", Text, nullable=False),
    Index("customer_by_last_seen", "workspace", "stage", "last_seen_at", "customer"),
    # Who never bought anything lies in the order of coming, not of ids: who is new is written side by side.
    Index("customer_by_spend", "workspace", "stage", "spend_minor", "first_seen_at", "customer"),
)

_OF_RISKS = text("risk_ppm > -1")  # lists by risk show nobody else

standing = Table(
    "standing",
    metadata,
    Column("customer", LargeBinary, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("stage", Text, nullable=False),
    Column("stage_at", BigInteger, nullable=False),
    Column("risk_ppm", Integer, nullable=False),  # -1: no risk can be told
    Column("risk_at", BigInteger, nullable=False),
    Column("reasons", LargeBinary, nullable=False),
    Index(
        "standing_by_risk", "workspace", "stage", "risk_ppm", "customer",
        postgresql_where=_OF_RISKS, sqlite_where=_OF_RISKS,
    ),
)  # fmt: skip

alert = Table(
    "alert",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("customer", LargeBinary, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("alert_by_customer", "customer"),
)

_OF_ALERTS = text("length(alert) > 0")

transition = Table(  # every decision ever recorded, so that it can be told what was decided by any instant
    "transition",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("customer", LargeBinary, nullable=False),
    Column("alert", LargeBinary, nullable=False),  # empty: a change of stage
    Column("number", BigInteger, nullable=False),  # the alert's revision, or the customer's sequence
    Column("at", BigInteger, nullable=False),  # the instant it speaks of
    Column("recorded_at", BigInteger, nullable=False),
    Column("says", Text, nullable=False),  # the stage, or the alert's state
    Column("risk_ppm", Integer, nullable=False),  # -1: no risk can be told
    Column("risk_at", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),  # reasons of the stage, or the whole event of the alert
    Index("transition_by_customer", "customer", "recorded_at"),
    Index("transition_by_alert", "alert", "number", postgresql_where=_OF_ALERTS, sqlite_where=_OF_ALERTS),
)

personal = Table(
    "personal",
    metadata,
    Column("leaf", LargeBinary, primary_key=True),
    Column("field", Text, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("id", LargeBinary, nullable=False),
)

parked = Table(
    "parked",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("code_version", Text, nullable=False),
    Column("bytes", LargeBinary, nullable=False),
    Column("parked_at", BigInteger, nullable=False),
    Column("leaf", LargeBinary, nullable=False),  # whose touchpoint it is; empty: a whole record, or no touchpoint
    Column("sealing_key", Text, nullable=False),  # what a replay must be able to open; empty: nothing
    Column("closed", Text, nullable=False),  # empty: open; else replayed, discarded or erased
    Column("closed_at", BigInteger, nullable=False),
    Index("parked_by_workspace", "workspace", "parked_at"),
    Index("parked_by_leaf", "leaf"),
)

failed = Table(
    "failed",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("code", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("item", LargeBinary, nullable=False),
    Column("sealing_key", Text, nullable=False),
    Column("closed", Text, nullable=False),  # empty: open; else replayed or discarded
    Column("closed_at", BigInteger, nullable=False),
    Index("failed_by_workspace", "workspace", "received_at"),
)

# What was asked for and what was done. Like `personal` a store of record: a rebuild leaves it alone.
erasure = Table(
    "erasure",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("customer", LargeBinary, nullable=False),
    Column("requested_at", BigInteger, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),  # -1: the command is on its way
    Column("scrubbed_at", BigInteger, nullable=False),  # -1: freed space may still hold old bytes
    Index("erasure_by_customer", "workspace", "customer"),
)

erasure_leaf = Table(
    "erasure_leaf",
    metadata,
    Column("id", LargeBinary, primary_key=True),  # of its `leaf.erased`
    Column("erasure", LargeBinary, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("erased_at", BigInteger, nullable=False),  # -1: not folded yet
    Column("personal_values", Integer, nullable=False),
    Column("bodies", Integer, nullable=False),
    Column("stages_at", BigInteger, nullable=False),  # when scoring's word was taken: -1 not yet
    Column("stages", Integer, nullable=False),
    Column("alerts_at", BigInteger, nullable=False),
    Column("alerts", Integer, nullable=False),
    Index("erasure_leaf_by_erasure", "erasure"),
    Index("erasure_leaf_by_leaf", "leaf"),
)

sealing_use = Table(  # the latest record of each partition that was sealed to a key, to the second
    "sealing_use",
    metadata,
    Column("workspace", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("last_at", BigInteger, nullable=False),
)

republish = Table(
    "republish",
    metadata,
    Column("id", Text, primary_key=True),
    Column("requested_at", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger, nullable=False),
    Column("leaves", BigInteger, nullable=False),
    Column("leaves_total", BigInteger, nullable=False),
    Column("customers", BigInteger, nullable=False),
    Column("after", LargeBinary, nullable=False),
)
