"""Add the quiet period of a study, so that a clock that went back is noticed."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    with op.batch_alter_table("study") as batch_op:
        batch_op.add_column(sa.Column("quiet_period_s", sa.Float(), nullable=True))


def downgrade() -> None:
    """Go back to the revision before."""
    with op.batch_alter_table("study") as batch_op:
        batch_op.drop_column("quiet_period_s")
