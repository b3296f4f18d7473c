"""The one way to a terminal: what comes from headers may hold anything, and a terminal obeys."""

import sys

from casebook.printing import harmless


def say(text: str, *, is_error: bool = False) -> None:
    """Print a line or several; what a terminal would obey stands there as its code."""
    print(harmless(text), file=sys.stderr if is_error else sys.stdout, flush=True)
