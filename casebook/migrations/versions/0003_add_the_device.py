"""Add the one DeviceUID of the installation, and those it had before."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "installation",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("device_uid", sa.String(length=64), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_installation_is_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_installation")),
    )
    op.create_table(
        "known_device",
        sa.Column("device_uid", sa.String(length=64), nullable=False),
        sa.Column("known_since", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("device_uid", name=op.f("pk_known_device")),
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_table("known_device")
    op.drop_table("installation")
