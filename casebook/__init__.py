"""What all sides of Wetread agree on: types, settings, the database, the queue of record and the flow of a study."""
