"""What a program is given: words and texts with values in them, and JSON."""

import json
import keyword
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dasksim._core.variables import brief
from dasksim.errors import ArgumentError, ArgumentTypeError, SimulatorError

__all__ = ["Input", "fill_text", "fill_word", "names_in"]

#: A text with fields such as ``{beta}``, or the names of what goes into a JSON object.
Input = str | tuple[str, ...]

_UNWRITABLE = {"rng": "{seed}, an integer", "xp": "another name", "batch_shape": "another name"}


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
            yield from _fields(spec or "", where)


class _Formatter(string.Formatter):
    """Format Python's numbers, whose text reads back as the same number, rather than NumPy's."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        value, name = super().get_field(field_name, args, kwargs)
        return (value.tolist() if hasattr(value, "tolist") else value), name

    def format_field(self, value: Any, format_spec: str) -> Any:
        if not isinstance(value, list):
            return super().format_field(value, format_spec)
        if any(isinstance(element, list) for element in value):
            raise SimulatorError(
                f"an array of several axes, {brief(value)}, cannot stand in a text; give the names of the variables "
                "instead of a template, and they are written as JSON"
            )
        return " ".join(super(_Formatter, self).format_field(element, format_spec) for element in value)


class _WordFormatter(_Formatter):
    def format_field(self, value: Any, format_spec: str) -> Any:
        if isinstance(value, list):
            raise SimulatorError(
                f"the array {brief(value)} cannot stand in a word of a command; take its elements, such as "
                "{theta[0]}, or give it as JSON by stdin=['theta'] or files={'input.json': ['theta']}"
            )
        return super().format_field(value, format_spec)


_text, _word = _Formatter(), _WordFormatter()


def fill_word(template: str, values: Mapping[str, Any]) -> str:
    """Return a word of a command with its fields filled.

    Examples
    --------
    >>> import numpy as np
    >>> fill_word("--beta={beta}", {"beta": np.float64(0.1)})
    '--beta=0.1'
    """
    return _word.vformat(template, (), values)


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
        return _text.vformat(template, (), values)
    chosen = {name: values[name] for name in template}
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in chosen.items()}
    return json.dumps(plain, allow_nan=False)  # NaN is no JSON: R and JavaScript would stop at it
