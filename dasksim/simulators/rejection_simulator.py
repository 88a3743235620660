"""Samples of another simulator that a predicate accepts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dasksim._engine.steps import Lowering
from dasksim.simulators.filtering import filtered
from dasksim.simulators.make import SimulatorLike, as_simulator
from dasksim.simulators.simulator import Simulator

__all__ = ["RejectionSimulator"]


class RejectionSimulator(Simulator):
    """The samples of a simulator that a predicate accepts, by filter and refill.

    Plain functions propose 0, 1, 2, ... for each sample, each time on streams of its own, until one is accepted. Where
    functions are batched, each sub-batch is filled by such attempts, and what is accepted is kept in the order of
    proposal. Contexts are drawn before, once for each sub-batch, and are not filtered.

    Parameters
    ----------
    simulator
        What proposes: a simulator, or functions that :func:`~dasksim.make_simulator` takes.
    predicate
        A function of variables by name, if every parameter is the name of a variable (``rng`` may be taken too), else
        of one mapping of all variables, in their shapes in the dataset. It is given whole arrays and returns a boolean
        array with one value for each proposal. By name, stages that it does not need run for accepted samples only.
    sample_size
        Proposals of an attempt; by default as many as the acceptance seen in the sub-batch lets expect to need.
    max_proposals
        Proposals for one sub-batch at most; more are an error. By default 100 attempts in a row that accept nothing
        are an error.

    Examples
    --------
    >>> import dasksim
    >>> prior = dasksim.make_simulator(lambda rng: {"x": rng.normal()})
    >>> ds = RejectionSimulator(prior, lambda x: x > 0).sample(100, seed=1)
    >>> bool((ds.x > 0).all())
    True
    """

    def __init__(
        self,
        simulator: SimulatorLike,
        predicate: Callable[..., Any],
        sample_size: int | None = None,
        max_proposals: int | None = None,
    ) -> None:
        super().__init__()
        self.simulator = as_simulator(simulator)
        self.predicate = predicate
        self.sample_size = sample_size
        self.max_proposals = max_proposals
        self.lower()  # checks the arguments

    def lower(self, path: str = "") -> Lowering:
        return filtered(self.simulator.lower(path), self.predicate, self.sample_size, self.max_proposals, path)
