"""First tables of scoring."""

import sqlalchemy as sa
from alembic import op

revision = "scoring_0001"
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
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("moves", sa.BigInteger(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("raised_at", sa.BigInteger(), nullable=False),
        sa.Column("risk_ppm", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("alert_by_customer", "alert", ["customer"], unique=False)
    op.create_index("alert_by_leaf", "alert", ["leaf"], unique=False)
    op.create_index("alert_by_time", "alert", ["workspace", "raised_at", "id"], unique=False)
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
        "decision",
        sa.Column("customer", sa.LargeBinary(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("decision", sa.LargeBinary(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("absorbed_into", sa.LargeBinary(), nullable=False),
        sa.Column("parked", sa.Text(), nullable=False),
        sa.Column("held", sa.Integer(), nullable=False),
        sa.Column("armed_version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("customer"),
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(
        "decision_due",
        "decision",
        ["partition", "due_at", "customer"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
        sqlite_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "decision_held",
        "decision",
        ["partition", "customer"],
        unique=False,
        postgresql_where=sa.text("held > 0"),
        sqlite_where=sa.text("held > 0"),
    )
    op.create_index(
        "decision_parked",
        "decision",
        ["partition", "customer"],
        unique=False,
        postgresql_where=sa.text("parked <> ''"),
        sqlite_where=sa.text("parked <> ''"),
    )
    op.create_index(
        "decision_by_version", "decision", ["partition", "workspace", "armed_version", "customer"], unique=False
    )
    op.create_table(
        "model_fit",
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("run", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("customers", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("report", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("workspace"),
    )
    op.create_table(
        "import_passed",
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("import_id", sa.Text(), nullable=False),
        sa.Column("from_partition", sa.Integer(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "import_id", "from_partition"),
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

    _make_rebuild_tables()


def _make_rebuild_tables() -> None:
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
        "recalled",
        sa.Column("customer", sa.LargeBinary(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("draft", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("customer"),
    )
    op.create_table(
        "recalled_alert",
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("customer", sa.LargeBinary(), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("moves", sa.BigInteger(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("raised_at", sa.BigInteger(), nullable=False),
        sa.Column("risk_ppm", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("recalled_alert_by_customer", "recalled_alert", ["customer"], unique=False)
    op.create_index("recalled_alert_by_leaf", "recalled_alert", ["leaf"], unique=False)
    op.create_table(
        "rebuild_differing",
        sa.Column("customer", sa.LargeBinary(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("fields", sa.Text(), nullable=False),
        sa.Column("before", sa.LargeBinary(), nullable=False),
        sa.Column("after", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("customer"),
    )
    op.create_index("rebuild_differing_by_workspace", "rebuild_differing", ["workspace"], unique=False)


def downgrade() -> None:
    """Drop them."""
    op.drop_index("rebuild_differing_by_workspace", table_name="rebuild_differing")
    op.drop_table("rebuild_differing")
    for name in (
        "rebuild_checkpoint",
        "rebuild",
        "recalled",
    ):
        op.drop_table(name)
    op.drop_index("recalled_alert_by_leaf", table_name="recalled_alert")
    op.drop_index("recalled_alert_by_customer", table_name="recalled_alert")
    op.drop_table("recalled_alert")
    op.drop_index("outbox_by_partition", table_name="outbox")
    op.drop_table("outbox")
    op.drop_table("import_passed")
    op.drop_table("model_fit")
    op.drop_index("decision_by_version", table_name="decision")
    op.drop_index(
        "decision_parked",
        table_name="decision",
        postgresql_where=sa.text("parked <> ''"),
        sqlite_where=sa.text("parked <> ''"),
    )
    op.drop_index(
        "decision_held", table_name="decision", postgresql_where=sa.text("held > 0"), sqlite_where=sa.text("held > 0")
    )
    op.drop_index(
        "decision_due",
        table_name="decision",
        postgresql_where=sa.text("due_at IS NOT NULL"),
        sqlite_where=sa.text("due_at IS NOT NULL"),
    )
    op.drop_table("decision")
    op.drop_table("checkpoint")
    op.drop_index("alert_by_time", table_name="alert")
    op.drop_index("alert_by_leaf", table_name="alert")
    op.drop_index("alert_by_customer", table_name="alert")
    op.drop_table("alert")
