"""Add the destinations, and the lock by which the jobs of one wait for each other."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
#: Name to table, columns and condition.
_PARTIAL = {
    "ix_job_waiting": ("job", ["queue", "run_after"], "state IN ('ready', 'retry') AND lock = ''"),
    "ix_job_waiting_for_lock": ("job", ["lock", "id"], "state IN ('ready', 'retry') AND lock <> ''"),
    "ix_job_holding_lock": ("job", ["lock"], "state = 'running' AND lock <> ''"),
    "ix_attempt_on_wire": ("attempt", ["on_wire_until"], "on_wire_until IS NOT NULL"),
}


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "destination",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("failing_since", sa.Float()),
        sa.Column("next_try", sa.Float(), nullable=False, server_default="0"),
        sa.Column("suspect_job_id", _BIG),
        sa.Column("reason", sa.String(length=64), nullable=False, server_default=""),
        sa.Column("detail", sa.Text(), nullable=False, server_default=""),
        sa.Column("negotiated", sa.Text(), nullable=False, server_default=""),
        sa.Column("negotiated_at", sa.Float()),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_destination")),
    )
    with op.batch_alter_table("attempt") as batch_op:
        batch_op.add_column(sa.Column("on_wire_until", sa.Float()))
    with op.batch_alter_table("job") as batch_op:
        batch_op.add_column(sa.Column("lock", sa.String(length=64), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("failing_since", sa.Float()))
    op.execute(
        "INSERT INTO destination (name, kind) "
        "SELECT destination, CASE MIN(kind) WHEN 'oru' THEN 'hl7' ELSE 'dicom' END FROM output GROUP BY destination"
    )
    op.execute("UPDATE job SET lock = subject WHERE step = 'send'")
    op.drop_index(op.f("ix_job_queue_state_priority_run_after"), table_name="job")
    for name, (table, columns, condition) in _PARTIAL.items():
        op.create_index(name, table, columns, sqlite_where=sa.text(condition), postgresql_where=sa.text(condition))


def downgrade() -> None:
    """Go back to the revision before."""
    for name, (table, _, _) in _PARTIAL.items():
        op.drop_index(name, table_name=table)
    op.create_index(op.f("ix_job_queue_state_priority_run_after"), "job", ["queue", "state", "priority", "run_after"])
    # No batch: it would make the tables anew, and rows of others refer to them.
    op.drop_column("job", "failing_since")
    op.drop_column("job", "lock")
    op.drop_column("attempt", "on_wire_until")
    op.drop_table("destination")
