"""Add what rejection notes took out of a study, and the earlier studies fetched for its reader."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "rejection",
        sa.Column("id", _BIG, autoincrement=True, nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("note_sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name=op.f("fk_rejection_study_instance_uid_study")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rejection")),
        sa.UniqueConstraint(
            "study_instance_uid", "sop_instance_uid", name=op.f("uq_rejection_study_instance_uid_sop_instance_uid")
        ),
    )
    op.create_table(
        "prior",
        sa.Column("id", _BIG, autoincrement=True, nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("prior_study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_date", sa.String(length=8), nullable=False),
        sa.Column("modality", sa.String(length=16), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("report_text", sa.Text(), nullable=False),
        sa.Column("fetched_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["study.study_instance_uid"], name=op.f("fk_prior_study_instance_uid_study")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prior")),
        sa.UniqueConstraint(
            "study_instance_uid", "sop_instance_uid", name=op.f("uq_prior_study_instance_uid_sop_instance_uid")
        ),
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_table("prior")
    op.drop_table("rejection")
