"""A parser whose errors are short, and offer what is near to what was typed."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from dasksim.errors import nearest

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """Parses the arguments of a command; its help leaves examples as they are."""

    def __init__(self, **how: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **how)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        # each command refuses what it does not know, and so can offer an option of its own
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._near_option(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            # its quotes differ between versions of Python
            message += _if_near(found[1], re.findall(r"[\w-]+", found[2]))
        self.exit(2, f"{self.prog}: {message}\nusage: {self._usage()}\n{self.prog} --help tells more\n")

    def _usage(self) -> str:
        return self.format_usage().removeprefix("usage: ").strip()

    def _near_option(self, unknown: Sequence[str]) -> str:
        options = [name for action in self._actions for name in action.option_strings]
        return next((_if_near(one.partition("=")[0], options) for one in unknown if one.startswith("-")), "")


def _if_near(name: str, known: Sequence[str]) -> str:
    hint = nearest(name, known)
    return f"; {hint}" if hint.startswith("did you mean") else ""
