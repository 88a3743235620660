"""The command line: ``dasksim generate``, ``extend``, ``derive``, ``status``, ``verify``, ``report`` and others."""

import argparse
import itertools
import os
import sys
import traceback
from collections.abc import Sequence

from dasksim._core.tracebacks import MOST_SHOWN, chain, shorten
from dasksim._execution.starting import interruptible
from dasksim.cli._arguments import parser
from dasksim.cli._codes import FAILED, INCOMPLETE, INTERRUPTED, IRREPRODUCIBLE, OK, RAISED
from dasksim.cli._words import in_options
from dasksim.errors import DasksimError, IrreproducibleError

__all__ = ["FAILED", "INCOMPLETE", "INTERRUPTED", "IRREPRODUCIBLE", "OK", "RAISED", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv
        The arguments, by default those of the process.
    """
    arguments = parser().parse_args(argv)
    try:
        with interruptible():
            code: int = arguments.run(arguments)
        sys.stdout.flush()
    except DasksimError as error:
        _say(f"dasksim: {error}", error)
        return IRREPRODUCIBLE if isinstance(error, IrreproducibleError) else FAILED
    except KeyboardInterrupt as error:
        _say("dasksim: interrupted", error)
        return INTERRUPTED
    except BrokenPipeError:
        # whoever reads, such as head, has seen enough; and nothing more is to be written when the process ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:  # noqa: BLE001  (a simulator's own)
        shorten(error, MOST_SHOWN)
        if isinstance(error, SyntaxError):  # it says where it is, and what loaded the file is nobody's
            error.with_traceback(None)
        for one in chain(error):
            if hasattr(one, "__notes__"):
                one.__notes__ = [in_options(note, _simulator(arguments)) for note in one.__notes__]
        traceback.print_exception(error)
        return RAISED
    return code


def _simulator(arguments: argparse.Namespace) -> list[str]:
    """Return what names the simulator at the command line: its target, and what it was given."""
    if not hasattr(arguments, "option"):
        return ["TARGET"]
    given = {"--option": arguments.option, "--set": getattr(arguments, "conditions", ())}
    options = [[option, f"{name}={value}"] for option, pairs in given.items() for name, value in pairs]
    return [arguments.target or "TARGET", *itertools.chain(*options)]


def _say(message: str, error: BaseException) -> None:
    print(in_options("\n".join([message, *getattr(error, "__notes__", ())])), file=sys.stderr)  # noqa: T201
