"""Index what an operator asks for, so that an answer costs no more after years than on the first day."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_INDEXES = (
    ("study", ["state", "changed_at"]),
    ("study", ["last_received_at"]),
    ("instance", ["received_at", "size_bytes"]),
    ("attempt", ["ended_at"]),
    ("audit", ["action", "at"]),
)


def _name(table: str, columns: list[str]) -> str:
    return f"ix_{table}_{'_'.join(columns)}"


def upgrade() -> None:
    """Go to this revision."""
    for table, columns in _INDEXES:
        op.create_index(op.f(_name(table, columns)), table, columns)


def downgrade() -> None:
    """Go back to the revision before."""
    for table, columns in reversed(_INDEXES):
        op.drop_index(op.f(_name(table, columns)), table_name=table)
