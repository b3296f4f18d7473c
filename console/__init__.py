"""The operator's side: the `wetread` command, the supervisor and the demonstration."""
