"""The reading side: a complete study becomes a draft report with answered checks."""
