"""Where instances become durable: the inbox, its journal, and the disk beneath."""
