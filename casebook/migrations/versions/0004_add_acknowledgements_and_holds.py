"""Add in which order objects were acknowledged, and every reason for which a study is held."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Go to this revision."""
    with op.batch_alter_table("instance") as batch_op:
        # Zero: not known, as of every object that was received before.
        batch_op.add_column(sa.Column("acknowledged_ns", _BIG, nullable=False, server_default="0"))
    op.create_table(
        "hold",
        sa.Column("id", _BIG, autoincrement=True, nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("differences", sa.Text(), nullable=False),
        sa.Column("held_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name=op.f("fk_hold_study_instance_uid_study")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hold")),
        sa.UniqueConstraint(
            "study_instance_uid",
            "generation",
            "destination",
            "reason",
            name=op.f("uq_hold_study_instance_uid_generation_destination_reason"),
        ),
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_table("hold")
    with op.batch_alter_table("instance") as batch_op:
        batch_op.drop_column("acknowledged_ns")
