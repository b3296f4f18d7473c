"""The `wetread` command: one file per verb, imported only when the verb is called.

Exit codes: 0 fine, 1 needs attention, 2 wrong usage.
"""

import importlib
import importlib.metadata
import sys

import click

from casebook.errors import WetreadError
from casebook.printing import harmless
from casebook.private_files import begin_process
from console.screen import say

#: Verb -> module and function. The order is that of a first hour.
_VERBS = {
    "demo": "console.demo:demo",
    "up": "console.up:up",
    "send": "console.send:send",
    "status": "console.status:status",
    "why": "console.why:why",
    "retry": "console.retry:retry",
    "release": "console.release:release",
    "close": "console.close:close",
    "dismiss": "console.dismiss:dismiss",
    "test-destination": "console.try_destination:try_destination",
    "migrate": "console.migrate:migrate",
    "config": "console.config:config",
}


class _Verbs(click.Group):
    """Knows the names of the verbs, and imports one only to run it or to show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of a first hour."""
        _ = ctx
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        _ = ctx
        if cmd_name not in _VERBS:
            return None
        module, _, name = _VERBS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run a verb; a message on wrong usage repeats what was typed, harmlessly."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            said = error.format_message()
            if harmless(said) == said:
                raise
            raise click.UsageError(harmless(said), ctx) from None


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(importlib.metadata.version("wetread"), prog_name="wetread")
def cli() -> None:
    """Draft radiology reports beside the images, marked unverified."""


def main() -> None:
    """Run the command; an error of ours is one sentence, not a traceback."""
    begin_process()
    try:
        cli(prog_name="wetread")
    except WetreadError as error:
        say(f"wetread: {error}", is_error=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
