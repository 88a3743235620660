"""Tell a call whose first two arguments were given the other way round."""

import os
from typing import Any

from zarr.abc.store import Store

from dasksim.errors import ArgumentTypeError
from dasksim.simulators import is_simulator_like

__all__ = ["refuse_swapped"]

_PLACES = (str, os.PathLike, Store)


def refuse_swapped(call: str, *, store: Any, simulator: Any) -> None:
    """Raise if a simulator was given as the store, and a store as the simulator.

    Parameters
    ----------
    call
        The call as it should be, with ``{store}`` where the store goes.

    Raises
    ------
    ArgumentTypeError
        With the right call.
    """
    # first what a store mostly is: one that is a mapping, as fsspec's are, would be read to see what it holds
    if isinstance(store, _PLACES) or not is_simulator_like(store):
        return
    if is_simulator_like(simulator):
        raise ArgumentTypeError("the functions of a simulator go into a list, such as [prior, likelihood]")
    if isinstance(simulator, _PLACES) or type(simulator).__module__.startswith("icechunk"):
        raise ArgumentTypeError(
            f"the first two arguments are the other way round: call {call.format(store=repr(simulator))}"
        )
