"""Deviations of a model's marginals and rank correlations from reference statistics, in standard errors."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

REFERENCE = json.loads((Path(__file__).parent / "reference_models.json").read_text())["models"]

Array = NDArray[Any]

#: The rank correlations of the reference are those of its first draws.
N_RANKED = 40_000

# Values within this part of a quantile count as equal to it: the reference has six digits.
_ROUNDING = 1e-5

# Distractors are draws of Student with 2 degrees of freedom: they have no variance, so a mean has no standard error.
_WITHOUT_VARIANCE = {("slcp_distractors", "observables"): slice(8, None)}


def z_scores(name: str, dataset: xr.Dataset) -> dict[str, Array]:
    """Return the deviations of a dataset of the model: means, standard deviations, quantiles, rank correlations.

    Each is the difference of two independent estimates, so that its standard error has a part of either.
    """
    columns = {
        variable: dataset[variable].values.astype("float64").reshape(dataset.sizes["batch"], -1)
        for variable in ("parameters", "observables")
    }
    found: dict[str, list[Array]] = {"mean": [], "std": [], "quantiles": [], "rank correlations": []}
    for variable, x in columns.items():
        for kind, z in _marginal(x, REFERENCE[name][variable], REFERENCE[name]["n"]):
            if kind != "quantiles" and (name, variable) in _WITHOUT_VARIANCE:
                z[_WITHOUT_VARIANCE[name, variable]] = 0
            found[kind].append(z)
    if REFERENCE[name]["spearman"]:
        x = np.concatenate(list(columns.values()), axis=1)
        found["rank correlations"].append(_rank_correlations(x, REFERENCE[name]))
    return {kind: np.concatenate(z) for kind, z in found.items() if z}


def _marginal(x: Array, reference: dict[str, Any], n_reference: int) -> Iterator[tuple[str, Array]]:
    n = len(x)
    per_draw = np.sqrt(1 / n + 1 / n_reference)
    flat = {key: np.ravel(reference[key]) for key in ("mean", "std")}
    yield "mean", _ratio(x.mean(0) - flat["mean"], x.std(0) * per_draw)
    # The second term is for values such as 0 and 1 with equal probability, where the first one vanishes.
    error = np.hypot(_standard_error_of_std(x) * per_draw, x.std(0) * per_draw**2)
    yield "std", _ratio(x.std(0) - flat["std"], error)
    for level, values in reference["quantiles"].items():
        p, quantile = float(level), np.ravel(values)
        slack = _ROUNDING * np.abs(quantile)
        below, up_to = (x < quantile - slack).mean(0), (x <= quantile + slack).mean(0)
        # Between the two where values have a probability of their own.
        excess = np.maximum(np.maximum(below - p, p - up_to), 0)
        yield "quantiles", excess / (np.sqrt(p * (1 - p)) * per_draw)


def _standard_error_of_std(x: Array) -> Array:
    """Return it for one draw."""
    variance = x.var(0)
    fourth = ((x - x.mean(0)) ** 4).mean(0)
    return np.asarray(np.sqrt(np.maximum(fourth - variance**2, 0) / np.where(variance > 0, 4 * variance, 1)))


def _rank_correlations(x: Array, reference: dict[str, Any]) -> Array:
    upper = np.triu_indices(x.shape[1], 1)
    n_blocks = 50

    def estimate(rows: Array) -> Array:
        with np.errstate(invalid="ignore"):  # columns that are constant
            return np.asarray(np.corrcoef(stats.rankdata(rows, axis=0), rowvar=False))[upper]

    spread = np.std([estimate(block) for block in np.array_split(x, n_blocks)], axis=0) / np.sqrt(n_blocks)
    n_ranked = min(reference["n"], N_RANKED)
    z = _ratio(estimate(x) - np.asarray(reference["spearman"])[upper], spread * np.sqrt(1 + len(x) / n_ranked))
    return z[np.isfinite(z)]  # pairs of which one is constant in a block have no error to compare with


def _ratio(difference: Array, error: Array) -> Array:
    return np.asarray(difference / np.where(error == 0, np.inf, error))


# Deviations in units of their standard error. The models have 14 700 statistics, and a normal deviation is larger in
# 3.8e-8 of all cases, so that right models with other seeds fail in less than 6e-4 of all cases.
LARGEST_Z = 5.5
