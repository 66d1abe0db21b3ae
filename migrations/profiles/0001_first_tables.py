"""First tables of profiles."""

import sqlalchemy as sa
from alembic import op

revision = "profiles_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "alert",
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("customer", sa.LargeBinary(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("alert_by_customer", "alert", ["customer"], unique=False)
    op.create_table(
        "checkpoint",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("frontier", sa.BigInteger(), nullable=False),
        sa.Column("last_position", sa.BigInteger(), nullable=False),
        sa.Column("last_checksum", sa.BigInteger(), nullable=False),
        sa.Column("log_identity", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition"),
    )
    op.create_table(
        "customer",
        sa.Column("customer", sa.LargeBinary(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("first_seen_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at", sa.BigInteger(), nullable=False),
        sa.Column("purchases", sa.Integer(), nullable=False),
        sa.Column("spend_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("customer"),
    )
    op.create_index(
        "customer_by_last_seen", "customer", ["workspace", "stage", "last_seen_at", "customer"], unique=False
    )
    op.create_index(
        "customer_by_spend",
        "customer",
        ["workspace", "stage", "spend_minor", "first_seen_at", "customer"],
        unique=False,
    )
    op.create_table(
        "edge",
        sa.Column("a", sa.LargeBinary(), nullable=False),
        sa.Column("b", sa.LargeBinary(), nullable=False),
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("tie", sa.Boolean(), nullable=False),
        sa.Column("alias", sa.Boolean(), nullable=False),
        sa.Column("operator", sa.Boolean(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("a", "b", "id"),
    )
    op.create_index("edge_by_b", "edge", ["b"], unique=False)
    op.create_table(
        "failed",
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("item", sa.LargeBinary(), nullable=False),
        sa.Column("sealing_key", sa.Text(), nullable=False),
        sa.Column("closed", sa.Text(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("failed_by_workspace", "failed", ["workspace", "received_at"], unique=False)
    op.create_table(
        "leaf",
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("standing", sa.SmallInteger(), nullable=False),
        sa.Column("full_rank", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("merged", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("moves", sa.BigInteger(), nullable=False),
        sa.Column("erased", sa.Boolean(), nullable=False),
        sa.Column("erased_at", sa.BigInteger(), nullable=False),
        sa.Column("known", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("leaf"),
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(
        "leaf_by_root",
        "leaf",
        ["root"],
        unique=False,
        postgresql_where=sa.text("root <> leaf"),
        sqlite_where=sa.text("root <> leaf"),
    )
    op.create_table(
        "outbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_autoincrement=True,
    )
    op.create_index("outbox_by_partition", "outbox", ["partition", "seq"], unique=False)
    op.create_table(
        "parked",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.Column("bytes", sa.LargeBinary(), nullable=False),
        sa.Column("parked_at", sa.BigInteger(), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("sealing_key", sa.Text(), nullable=False),
        sa.Column("closed", sa.Text(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition", "position", "place"),
    )
    op.create_index("parked_by_workspace", "parked", ["workspace", "parked_at"], unique=False)
    op.create_index("parked_by_leaf", "parked", ["leaf"], unique=False)
    op.create_table(
        "erasure",
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("customer", sa.LargeBinary(), nullable=False),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("scrubbed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("erasure_by_customer", "erasure", ["workspace", "customer"], unique=False)
    op.create_table(
        "erasure_leaf",
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("erasure", sa.LargeBinary(), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("erased_at", sa.BigInteger(), nullable=False),
        sa.Column("personal_values", sa.Integer(), nullable=False),
        sa.Column("bodies", sa.Integer(), nullable=False),
        sa.Column("stages_at", sa.BigInteger(), nullable=False),
        sa.Column("stages", sa.Integer(), nullable=False),
        sa.Column("alerts_at", sa.BigInteger(), nullable=False),
        sa.Column("alerts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("erasure_leaf_by_erasure", "erasure_leaf", ["erasure"], unique=False)
    op.create_index("erasure_leaf_by_leaf", "erasure_leaf", ["leaf"], unique=False)
    op.create_table(
        "sealing_use",
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("workspace", "key", "partition"),
    )
    op.create_table(
        "personal",
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("leaf", "field"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Statistics keep samples of a column's values, and so would keep what was erased.
        op.execute("ALTER TABLE personal ALTER COLUMN value SET STATISTICS 0")
    op.create_table(
        "standing",
        sa.Column("customer", sa.LargeBinary(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("stage_at", sa.BigInteger(), nullable=False),
        sa.Column("risk_ppm", sa.Integer(), nullable=False),
        sa.Column("risk_at", sa.BigInteger(), nullable=False),
        sa.Column("reasons", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("customer"),
    )
    op.create_index(
        "standing_by_risk",
        "standing",
        ["workspace", "stage", "risk_ppm", "customer"],
        unique=False,
        postgresql_where=sa.text("risk_ppm > -1"),
        sqlite_where=sa.text("risk_ppm > -1"),
    )
    op.create_table(
        "republish",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.Column("leaves", sa.BigInteger(), nullable=False),
        sa.Column("leaves_total", sa.BigInteger(), nullable=False),
        sa.Column("customers", sa.BigInteger(), nullable=False),
        sa.Column("after", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "transition",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("customer", sa.LargeBinary(), nullable=False),
        sa.Column("alert", sa.LargeBinary(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("says", sa.Text(), nullable=False),
        sa.Column("risk_ppm", sa.Integer(), nullable=False),
        sa.Column("risk_at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition", "position"),
    )
    op.create_index("transition_by_customer", "transition", ["customer", "recorded_at"], unique=False)
    op.create_index(
        "transition_by_alert",
        "transition",
        ["alert", "number"],
        unique=False,
        postgresql_where=sa.text("length(alert) > 0"),
        sqlite_where=sa.text("length(alert) > 0"),
    )
    op.create_table(
        "touchpoint",
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("scope", sa.LargeBinary(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("day", "scope", "id"),
    )
    op.create_index("touchpoint_by_leaf", "touchpoint", ["leaf", "occurred_at"], unique=False)
    _make_rebuild_tables()


def _make_rebuild_tables() -> None:
    op.create_table(
        "projection",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("fold_version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "rebuild",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("wanted", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("fold_version", sa.BigInteger(), nullable=False),
        sa.Column("schema_revision", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("compared_at", sa.BigInteger(), nullable=False),
        sa.Column("switched_at", sa.BigInteger(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("report", sa.LargeBinary(), nullable=False),
        sa.Column("pace", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "rebuild_checkpoint",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("frontier", sa.BigInteger(), nullable=False),
        sa.Column("last_position", sa.BigInteger(), nullable=False),
        sa.Column("last_checksum", sa.BigInteger(), nullable=False),
        sa.Column("log_identity", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition"),
    )
    op.create_table(
        "rebuild_touched",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_table(
        "rebuild_differing",
        sa.Column("customer", sa.LargeBinary(), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("was", sa.LargeBinary(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("features", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("customer", "leaf"),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("republish")
    op.drop_index(
        "transition_by_alert",
        table_name="transition",
        postgresql_where=sa.text("length(alert) > 0"),
        sqlite_where=sa.text("length(alert) > 0"),
    )
    op.drop_index("transition_by_customer", table_name="transition")
    op.drop_table("transition")
    for name in ("rebuild_differing", "rebuild_touched", "rebuild_checkpoint", "rebuild", "projection"):
        op.drop_table(name)
    op.drop_index("touchpoint_by_leaf", table_name="touchpoint")
    op.drop_table("touchpoint")
    op.drop_index(
        "standing_by_risk",
        table_name="standing",
        postgresql_where=sa.text("risk_ppm > -1"),
        sqlite_where=sa.text("risk_ppm > -1"),
    )
    op.drop_table("standing")
    op.drop_table("personal")
    op.drop_table("sealing_use")
    op.drop_index("erasure_leaf_by_leaf", table_name="erasure_leaf")
    op.drop_index("erasure_leaf_by_erasure", table_name="erasure_leaf")
    op.drop_table("erasure_leaf")
    op.drop_index("erasure_by_customer", table_name="erasure")
    op.drop_table("erasure")
    op.drop_index("parked_by_leaf", table_name="parked")
    op.drop_index("parked_by_workspace", table_name="parked")
    op.drop_table("parked")
    op.drop_index("outbox_by_partition", table_name="outbox")
    op.drop_table("outbox")
    op.drop_index(
        "leaf_by_root",
        table_name="leaf",
        postgresql_where=sa.text("root <> leaf"),
        sqlite_where=sa.text("root <> leaf"),
    )
    op.drop_table("leaf")
    op.drop_index("failed_by_workspace", table_name="failed")
    op.drop_table("failed")
    op.drop_index("edge_by_b", table_name="edge")
    op.drop_table("edge")
    op.drop_index("customer_by_spend", table_name="customer")
    op.drop_index("customer_by_last_seen", table_name="customer")
    op.drop_table("customer")
    op.drop_table("checkpoint")
    op.drop_index("alert_by_customer", table_name="alert")
    op.drop_table("alert")
