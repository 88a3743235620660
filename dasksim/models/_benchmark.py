"""What the benchmark simulators have in common: a prior stage and an observation stage."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dasksim import simulators
from dasksim.errors import ArgumentError

__all__ = ["Draws", "benchmark", "check_variant", "labels", "spaced"]

#: What a stage returns.
Draws = dict[str, Any]


def benchmark(
    prior: Callable[..., Draws], observe: Callable[..., Draws], dims: Sequence[str], coords: Mapping[str, Sequence[Any]]
) -> "simulators.Simulator":
    """Return the simulator of a prior and an observation model.

    Parameters
    ----------
    prior
        Batched; makes ``parameters``, whose dim is ``parameter``.
    observe
        Batched; takes ``parameters`` and makes ``observables``.
    dims
        The dims of ``observables`` after the batch axis.
    coords
        Labels of the dims.
    """
    return simulators.SequentialSimulator(
        {
            "prior": simulators.LambdaSimulator(prior, is_batched=True),
            "observe": simulators.LambdaSimulator(observe, is_batched=True),
        },
        dims={"parameters": ["parameter"], "observables": list(dims)},
        coords=dict(coords),
    )


def check_variant(variant: object, known: Sequence[str] = ("bayesflow", "sbibm")) -> None:
    """Raise if a model has no such variant."""
    if variant not in known:
        raise ArgumentError(f"variant must be one of {', '.join(map(repr, known))}; got {variant!r}")


def labels(name: str, n: int) -> list[str]:
    """Return ``n`` labels.

    Examples
    --------
    >>> labels("theta", 2)
    ['theta_1', 'theta_2']
    """
    return [f"{name}_{i + 1}" for i in range(n)]


def spaced(n_points: int, subsample: object, original: int) -> range:
    """Return which points of a grid are observed.

    Parameters
    ----------
    n_points
        Points of the grid.
    subsample
        ``"original"`` for every ``original``-th point, an integer for so many points, as far apart as they can be from
        the first on, None for all.
    original
        Distance of the points of the original benchmark.

    Examples
    --------
    >>> list(spaced(160, 7, 17))
    [0, 22, 44, 66, 88, 110, 132]
    >>> len(spaced(160, "original", 17)), len(spaced(160, None, 17))
    (10, 160)
    """
    if subsample is None:
        return range(n_points)
    if isinstance(subsample, str) and subsample == "original":
        return range(0, n_points, original)
    if isinstance(subsample, bool) or not isinstance(subsample, int) or not 1 <= subsample <= n_points:
        raise ArgumentError(
            f"subsample must be 'original', None or a number of points from 1 to {n_points}; got {subsample!r}"
        )
    return range(0, n_points, n_points // subsample)[:subsample]
