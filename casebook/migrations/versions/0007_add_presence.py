"""Add who runs: a row per process, with its heartbeat, its progress and its job."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "presence",
        sa.Column("id", _BIG, autoincrement=True, nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("host", sa.String(length=64), nullable=False),
        sa.Column("pid_namespace", _BIG, nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("born_ticks", _BIG, nullable=False),
        sa.Column("queue", sa.String(length=32), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.Column("progressed_at", sa.Float(), nullable=False),
        sa.Column("job_id", _BIG, nullable=True),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_presence")),
        sa.UniqueConstraint("host", "pid_namespace", "pid", name=op.f("uq_presence_host_pid_namespace_pid")),
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_table("presence")
