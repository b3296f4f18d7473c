"""A hospital in one process: virtual time, seeded faults, and the real store, queue, flow and sweep."""
