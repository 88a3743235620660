"""What a program is given: words and texts with values in them, and JSON."""

import json
import keyword
import re
import string
from collections.abc import Iterator, Mapping
from typing import Any

from dasksim._core.variables import brief
from dasksim.errors import ArgumentError, ArgumentTypeError, SimulatorError

__all__ = ["Input", "fill_text", "fill_word", "names_in"]

#: A text with fields such as ``{beta}``, or the names of what goes into a JSON object.
Input = str | tuple[str, ...]

_UNWRITABLE = {
    "rng": "{seed}, an integer",
    "random_state": "{seed32}, an integer",
    "xp": "another name",
    "batch_shape": "another name",
}


def names_in(template: Input, where: str) -> tuple[str, ...]:
    """Return the names of the values that a template or a JSON object holds, in order.

    Raises
    ------
    ArgumentError
        If a brace or a name does not fit; ``where`` begins the message.

    Examples
    --------
    >>> names_in("--rate={beta:.3f} {theta[0]} {{literal}}", "command[1]")
    ('beta', 'theta')
    """
    names = tuple(dict.fromkeys(_fields(template, where) if isinstance(template, str) else template))
    for name in names:
        if not isinstance(name, str):
            raise ArgumentTypeError(f"{where} must list names, each a str; got {name!r}")
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ArgumentError(f"{where} holds {name!r}, which is not the name of a variable; got {template!r}")
        if name in _UNWRITABLE:
            raise ArgumentError(f"{where} holds {name!r}, which cannot be written; use {_UNWRITABLE[name]}")
    return names


def _fields(text: str, where: str) -> Iterator[str]:
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ArgumentError(
            f"{where} is no template: {error}; double a literal brace, {{{{ or }}}}; got {text!r}"
        ) from error
    for _, field, spec, _ in parts:
        if field is not None:
            name = re.split(r"[.\[]", field, maxsplit=1)[0]
            if not name or name.isdigit():
                raise ArgumentError(
                    f"{where} has a field without a name; name it, such as {{beta}}, or double literal braces, "
                    f"{{{{}}}}; got {text!r}"
                )
            yield name
            # a format may have fields of its own, as {beta:{width}} does
            yield from _fields(spec or "", where)


class _Shown:
    """A value in a text: as Python's numbers, whose text reads back as the same number, rather than NumPy's."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getitem__(self, key: int | str) -> "_Shown":
        return type(self)(self._value[key])

    def __getattr__(self, name: str) -> "_Shown":
        return type(self)(getattr(self._value, name))

    def __format__(self, spec: str) -> str:
        plain = self._plain
        return self._joined(plain, spec) if isinstance(plain, list) else format(plain, spec)

    def __str__(self) -> str:
        return str(self._plain)

    def __repr__(self) -> str:
        return repr(self._plain)

    @property
    def _plain(self) -> Any:
        return self._value.tolist() if hasattr(self._value, "tolist") else self._value

    def _joined(self, values: list[Any], spec: str) -> str:
        if any(isinstance(value, list) for value in values):
            raise SimulatorError(
                f"an array of several axes, {brief(values)}, cannot stand in a text; give the names of the variables "
                "instead of a template, and they are written as JSON"
            )
        return " ".join(format(value, spec) for value in values)


class _ShownInWord(_Shown):
    """A value in a word of a command, which holds no arrays."""

    def _joined(self, values: list[Any], spec: str) -> str:
        raise SimulatorError(
            f"the array {brief(values)} cannot stand in a word of a command; take its elements, such as "
            "{theta[0]}, or give it as JSON by stdin=['theta'] or files={'input.json': ['theta']}"
        )


def fill_word(template: str, values: Mapping[str, Any]) -> str:
    """Return a word of a command with its fields filled.

    Examples
    --------
    >>> import numpy as np
    >>> fill_word("--beta={beta}", {"beta": np.float64(0.1)})
    '--beta=0.1'
    """
    return template.format_map({name: _ShownInWord(value) for name, value in values.items()})


def fill_text(template: Input, values: Mapping[str, Any]) -> str:
    """Return a text with its fields filled, or a JSON object.

    Examples
    --------
    >>> import numpy as np
    >>> fill_text("theta = {theta:.1f}", {"theta": np.arange(3.0)})
    'theta = 0.0 1.0 2.0'
    >>> fill_text(("theta", "n"), {"theta": np.arange(2.0), "n": 5})
    '{"theta": [0.0, 1.0], "n": 5}'
    """
    if isinstance(template, str):
        return template.format_map({name: _Shown(value) for name, value in values.items()})
    chosen = {name: values[name] for name in template}
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in chosen.items()}
    return json.dumps(plain, allow_nan=False)  # NaN is no JSON: R and JavaScript would stop at it
