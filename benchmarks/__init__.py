"""Speed and proofs: each script prints a table for people and one line of JSON for machines."""
