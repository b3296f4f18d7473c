"""Studies as hospitals send them, sound and damaged, each drawn from a seed with the record of what was done to it."""
