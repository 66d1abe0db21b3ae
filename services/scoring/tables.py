"""Tables of the scoring database. The workspace is inside every key: customers and alert ids are hashes over it."""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text, text

from shared.checkpoint import REBUILD_CHECKPOINT, checkpoint_table
from shared.outbox import outbox_table
from shared.rebuild import rebuild_table

metadata = MetaData()

checkpoint = checkpoint_table(metadata)
outbox = outbox_table(metadata)

_ARMED = text("due_at IS NOT NULL")
_HELD = text("held > 0")
_PARKED = text("parked <> ''")

decision = Table(
    "decision",
    metadata,
    Column("customer", LargeBinary, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("decision", LargeBinary, nullable=False),
    Column("due_at", BigInteger),
    Column("absorbed_into", LargeBinary, nullable=False),
    Column("parked", Text, nullable=False),
    Column("held", Integer, nullable=False),  # how many history imports hold the customer
    Column("armed_version", Integer, nullable=False),
    Index("decision_due", "partition", "due_at", "customer", postgresql_where=_ARMED, sqlite_where=_ARMED),
    Index("decision_held", "partition", "customer", postgresql_where=_HELD, sqlite_where=_HELD),
    Index("decision_parked", "partition", "customer", postgresql_where=_PARKED, sqlite_where=_PARKED),
    Index("decision_by_version", "partition", "workspace", "armed_version", "customer"),
    postgresql_with={"fillfactor": 70},
)

alert = Table(
    "alert",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("customer", LargeBinary, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("moves", BigInteger, nullable=False),
    Column("policy", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("raised_at", BigInteger, nullable=False),
    Column("risk_ppm", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("alert_by_time", "workspace", "raised_at", "id"),
    Index("alert_by_customer", "customer"),
    Index("alert_by_leaf", "leaf"),
)

import_passed = Table(
    "import_passed",
    metadata,
    Column("partition", Integer, primary_key=True),  # of profile-changes
    Column("import_id", Text, primary_key=True),
    Column("from_partition", Integer, primary_key=True),  # of touchpoints
    Column("workspace", Text, nullable=False),
)

model_fit = Table(
    "model_fit",
    metadata,
    Column("workspace", Text, primary_key=True),
    Column("run", LargeBinary, nullable=False),  # who runs it, or ran it last: a fence
    Column("state", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("customers", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("beat_at", BigInteger, nullable=False),  # the runner's last sign of life; when it ended
    Column("version", Integer, nullable=False),  # published, 0 = none
    Column("report", LargeBinary, nullable=False),  # JSON: why, and the figures
)

# --- what was said, read again after the database was lost; empty otherwise --------------------------------------

rebuild = rebuild_table(metadata)
rebuild_checkpoint = checkpoint_table(metadata, REBUILD_CHECKPOINT)

recalled = Table(
    "recalled",
    metadata,
    Column("customer", LargeBinary, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("draft", LargeBinary, nullable=False),
)

recalled_alert = Table(
    "recalled_alert",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("customer", LargeBinary, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("moves", BigInteger, nullable=False),
    Column("policy", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("raised_at", BigInteger, nullable=False),
    Column("risk_ppm", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("recalled_alert_by_customer", "customer"),
    Index("recalled_alert_by_leaf", "leaf"),
)

rebuild_differing = Table(
    "rebuild_differing",
    metadata,
    Column("customer", LargeBinary, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("fields", Text, nullable=False),  # in what the customer differs, with spaces
    Column("before", LargeBinary, nullable=False),  # as it was before the switch; empty until then
    Column("after", LargeBinary, nullable=False),
    Index("rebuild_differing_by_workspace", "workspace"),
)
