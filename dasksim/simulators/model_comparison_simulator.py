"""Samples of several models, labelled with the model that each comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from dasksim._core.attributes import as_coordinate
from dasksim._core.checks import check_flag
from dasksim._core.labels import check_fill_value, check_sizes
from dasksim._engine.branches import INDICES, BranchStage, ChoiceStage, MergeStage
from dasksim._engine.functions import SharedStage, function_name
from dasksim._engine.stage import Stage, within
from dasksim._engine.steps import Lowering
from dasksim.errors import ArgumentError, ArgumentTypeError
from dasksim.simulators.lambda_simulator import LambdaSimulator
from dasksim.simulators.lowering import as_simulator, common_levels, joined, joined_attrs
from dasksim.simulators.simulator import Simulator

__all__ = ["ModelComparisonSimulator"]

_CONFLICTS = ("drop", "fill", "error")


class ModelComparisonSimulator(Simulator):
    """Draws a model for each sample and then the sample from that model.

    Parameters
    ----------
    simulators
        The models: a sequence of simulators or functions, or a mapping of names to them.
    p
        Probabilities of the models. By default all are equal.
    logits
        Their logarithms, up to a constant, instead of ``p``.
    use_mixed_batches
        Whether each sample's model is drawn independently; otherwise one model is drawn for a whole sub-batch.
    key_conflicts
        What becomes of variables that not all models have: ``"drop"`` leaves them out, ``"fill"`` puts ``fill_value``
        where a model lacks them, ``"error"`` refuses them.
    fill_value
        See ``key_conflicts`` and ``max_sizes``. With NaN, integers become floats where a model lacks them.
    shared_simulator
        A simulator, or a function that is called batched (with ``batch_shape``, or without arguments), whose variables
        all models may take. Scalars of a function are contexts of the sub-batch, arrays have one row a sample.
    names
        Names of the models, the coordinate ``model``. By default the keys of a mapping, the names of functions, or
        ``model_0``, ``model_1``, ...
    max_sizes
        Largest sizes of dims whose size follows a context.

    Examples
    --------
    >>> import dasksim
    >>> models = {
    ...     "normal": lambda rng: {"x": rng.normal(size=3)},
    ...     "uniform": lambda rng: {"x": rng.uniform(size=3)},
    ... }
    >>> ds = ModelComparisonSimulator(models, p=[0.25, 0.75]).sample(1000, seed=1).compute()
    >>> ds.model_indices.dims, ds.model.values.tolist()
    (('batch', 'model'), ['normal', 'uniform'])
    """

    def __init__(
        self,
        simulators: Sequence[Any] | Mapping[str, Any],
        p: Sequence[float] | None = None,
        logits: Sequence[float] | None = None,
        use_mixed_batches: bool = True,
        key_conflicts: Literal["drop", "fill", "error"] = "drop",
        fill_value: Any = math.nan,
        shared_simulator: Simulator | Callable[..., Any] | None = None,
        names: Sequence[str] | None = None,
        *,
        max_sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(simulators, str) or not isinstance(simulators, Mapping | Sequence):
            raise ArgumentTypeError(f"simulators must be a sequence or a mapping of Simulators; got {simulators!r}")
        if not simulators:
            raise ArgumentError("simulators must hold at least one model; got none")
        members = list(simulators.values()) if isinstance(simulators, Mapping) else list(simulators)
        self.simulators = tuple(as_simulator(member, "simulators") for member in members)
        keys = list(simulators) if isinstance(simulators, Mapping) else None
        self.names = _names(self.simulators, keys if names is None else names)
        self.p = _probabilities(len(members), p, logits)
        self.use_mixed_batches = check_flag("use_mixed_batches", use_mixed_batches)
        if key_conflicts not in _CONFLICTS:
            raise ArgumentError(f"key_conflicts must be 'drop', 'fill' or 'error'; got {key_conflicts!r}")
        self.key_conflicts = key_conflicts
        self.fill_value = check_fill_value(fill_value)
        self.shared_simulator = shared_simulator
        if not (shared_simulator is None or callable(shared_simulator) or isinstance(shared_simulator, Simulator)):
            raise ArgumentTypeError(f"shared_simulator must be a Simulator or a function; got {shared_simulator!r}")
        self.max_sizes = check_sizes(max_sizes)

    def lower(self, path: str = "") -> Lowering:
        prefix = within(path)
        shared = self._shared(path)
        models = [s.lower(f"{prefix}{name}/") for name, s in zip(self.names, self.simulators, strict=True)]
        levels = common_levels([shared, *models])
        branches = [
            BranchStage(f"{prefix}{name}", k, m) for k, (name, m) in enumerate(zip(self.names, models, strict=True))
        ]
        stages: list[Stage] = [
            ChoiceStage(f"{prefix}choice", self.p, self.use_mixed_batches),
            *branches,
            MergeStage(
                f"{prefix}merge", [branch.name for branch in branches], self.names, self.key_conflicts, self.fill_value
            ),
        ]
        # a whole group comes from one model
        if levels:
            stages = [stage.replaced(depth=0) for stage in stages]
        inner = [shared, *models]
        return Lowering(
            (*shared.stages, *stages),
            dims={**joined(m.dims for m in inner), INDICES: ("model",)},
            coords={**joined(m.coords for m in inner), "model": as_coordinate("model", np.asarray(self.names))},
            attrs=joined_attrs(m.attrs for m in inner),
            levels=levels,
            max_sizes={**joined(m.max_sizes for m in inner), **self.max_sizes},
            fill_value=self.fill_value,
        )

    def _shared(self, path: str) -> Lowering:
        shared = self.shared_simulator
        if shared is None:
            return Lowering(())
        if isinstance(shared, Simulator):
            return shared.lower(within(within(path, "shared")))
        name = within(within(path, "shared"), function_name(shared))
        return Lowering((SharedStage(name, shared),))


def _names(simulators: Sequence[Simulator], given: Any) -> tuple[str, ...]:
    if given is None:
        given = [
            function_name(s.sample_fn) if isinstance(s, LambdaSimulator) else f"model_{i}"
            for i, s in enumerate(simulators)
        ]
        if len(set(given)) < len(given) or "<lambda>" in given:
            given = [f"model_{i}" for i in range(len(simulators))]
    if isinstance(given, str) or not all(isinstance(name, str) and name and "/" not in name for name in given):
        raise ArgumentTypeError(f"names must be strings without '/'; got {given!r}")
    if len(given) != len(simulators) or len(set(given)) < len(given):
        raise ArgumentError(f"names must hold {len(simulators)} different names, one for each model; got {given!r}")
    return tuple(given)


def _probabilities(n: int, p: Any, logits: Any) -> tuple[float, ...]:
    if p is not None and logits is not None:
        raise ArgumentError("give p or logits, not both")
    if p is None and logits is None:
        return (1 / n,) * n
    name, given = ("p", p) if logits is None else ("logits", logits)
    try:
        values = np.asarray(given, dtype=float)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"{name} must be a list of numbers; got {given!r}") from error
    if values.shape != (n,):
        raise ArgumentError(f"{name} must hold one number for each of the {n} models; got {given!r}")
    if name == "logits":
        if np.isnan(values).any() or not np.isfinite(values.max()):
            raise ArgumentError(f"logits must be finite, or -inf for a model that is never drawn; got {given!r}")
        # the largest becomes 0, so that no exponential overflows
        values = np.exp(values - values.max())
        return tuple((values / values.sum()).tolist())
    if not (values >= 0).all():
        or_nan = " or NaN" if np.isnan(values).any() else ""
        raise ArgumentError(f"p must not be negative{or_nan}; got {given!r}")
    if not np.isclose(values.sum(), 1.0):
        raise ArgumentError(f"p must sum to 1; got {given!r}, which sums to {values.sum():g}")
    return tuple((values / values.sum()).tolist())
