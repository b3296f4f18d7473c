"""Both databases take the same values."""

import pytest
from sqlalchemy import Engine, insert, select, update
from sqlalchemy import String as DatabaseString

from casebook import tables
from casebook.database import read, write

STUDY = {
    "study_instance_uid": "1.2.3",
    "generation": 1,
    "state": "received",
    "first_received_at": 0.0,
    "last_received_at": 0.0,
    "quiet_at": 0.0,
    "changed_at": 0.0,
}


def test_every_text_of_a_largest_length_is_held_to_it() -> None:
    texts = [
        column for table in tables.metadata.tables.values() for column in table.columns if _is_limited(column.type)
    ]

    assert len(texts) > 50
    assert all(isinstance(column.type, tables.String) for column in texts)


def _is_limited(kind: object) -> bool:
    return isinstance(kind, tables.String) or (isinstance(kind, DatabaseString) and kind.length is not None)


@pytest.mark.parametrize(("character", "longest"), [("x", 16), ("放", 16), ("\U0001f600", 16)])
def test_a_text_longer_than_its_column_is_refused_on_every_database(
    engine: Engine, character: str, longest: int
) -> None:
    with write(engine) as connection:
        connection.execute(insert(tables.study).values(**STUDY, calling_ae_title=character * longest))
    for statement in (
        insert(tables.study).values(**STUDY | {"study_instance_uid": "1.2.4"}, calling_ae_title=character * 17),
        update(tables.study).values(calling_ae_title=character * 17),
        update(tables.study).values(study_instance_uid="1" * 65),
    ):
        with pytest.raises(tables.TooLong, match="a text of"), write(engine) as connection:
            connection.execute(statement)

    with read(engine) as connection:
        rows = connection.execute(select(tables.study)).all()
    assert [(row.study_instance_uid, row.calling_ae_title) for row in rows] == [("1.2.3", character * longest)]
