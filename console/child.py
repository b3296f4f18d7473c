"""Run the `main` of one role's module as a child that does not outlive its supervisor."""

import ctypes
import importlib
import os
import signal
import sys

from casebook.private_files import begin_process

#: prctl(2): the signal the kernel sends when the parent is gone.
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Run ``MODULE:main``; the arguments are the module and the pid of the supervisor."""
    begin_process()
    module, supervisor = arguments[0], int(arguments[1])
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # The supervisor may have gone before the kernel was asked.
    if os.getppid() != supervisor:
        sys.exit(1)
    sys.argv = [module]
    importlib.import_module(module).main()


if __name__ == "__main__":
    main(sys.argv[1:])
