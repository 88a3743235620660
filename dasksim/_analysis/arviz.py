"""Datasets as ArviZ takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from dasksim._version import __version__
from dasksim.errors import ArgumentError, ArgumentTypeError, nearest
from dasksim.store import Record, SamplesLike, mask_of, open_samples

__all__ = ["to_arviz"]

# Stages that hold others, of which a dataset does not say what they made.
_NESTED = ("FilterStage", "MergeStage")


def to_arviz(source: SamplesLike, parameters: Sequence[str] | None = None) -> xr.DataTree:
    """Convert a store or dataset to the tree that ArviZ takes, with the groups ``prior`` and ``prior_predictive``.

    Parameters
    ----------
    source
        A store, in any form that :func:`~dasksim.open_dataset` takes, a Zarr group or a Dataset with the dim ``batch``,
        or a list of these with the same variables.
    parameters
        The variables of the group ``prior``; the others are ``prior_predictive``. By default contexts, conditions, and
        what stages make without other inputs than these; nothing that was derived.

    Returns
    -------
    xarray.DataTree
        Lazy if the dataset is. Variables have the dims ``chain``, of size 1, and ``draw``, one for each sample, before
        their own. Masked samples are left out, and so is ``valid``.

    Raises
    ------
    ArgumentError
        If there is no such variable, no dim ``batch``, or if the dataset does not say which variables are parameters:
        with rejection and model comparison, where one function makes all, or where all parameters are conditions.
    StoreError
        If the store cannot be read, or lacks chunks.

    Notes
    -----
    ArviZ takes no lazy variables: convert as many samples as fit into memory, and call ``compute`` on the tree. The
    first 1000, ``open_dataset(store).isel(batch=slice(1000))``, are as good as any. The conversion needs no ArviZ.

    Examples
    --------
    >>> import dasksim
    >>> ds = dasksim.models.two_moons().sample(1000, seed=1)
    >>> tree = dasksim.to_arviz(ds)
    >>> list(tree), dict(tree["prior"].sizes)
    (['prior', 'prior_predictive'], {'chain': 1, 'draw': 1000, 'parameter': 2})
    """
    dataset = open_samples(source)
    record, mask = Record.of_dataset(dataset.attrs), mask_of(dataset)
    if mask is not None:
        dataset = dataset.isel(batch=np.flatnonzero(mask.values)).drop_vars(str(mask.name))
    names = [str(name) for name in dataset]
    prior = _guessed(record, names) if parameters is None else _checked(parameters, names)
    groups = {"prior": prior, "prior_predictive": [name for name in names if name not in prior]}
    attributes = {"inference_library": "dasksim", "inference_library_version": record.version or __version__}
    draws = dataset.rename(batch="draw").expand_dims("chain").transpose("chain", "draw", ...)
    draws = draws.assign_coords(chain=[0], draw=np.arange(draws.sizes["draw"])).assign_attrs(attributes)
    tree = {group: draws[chosen].assign_attrs(attributes) for group, chosen in groups.items() if chosen}
    root = xr.Dataset(attrs={**dataset.attrs, **attributes})
    return xr.DataTree.from_dict({"/": root, **tree})


def _checked(parameters: Sequence[str], names: Sequence[str]) -> list[str]:
    if isinstance(parameters, str):
        raise ArgumentTypeError(f"parameters must be a sequence of names; give [{parameters!r}]")
    for name in parameters:
        if name not in names:
            raise ArgumentError(f"there is no variable {name!r}; {nearest(name, names)}")
    return list(parameters)


def _guessed(record: Record, names: Sequence[str]) -> list[str]:
    """Return the variables that no stage makes of simulated ones."""
    given = record.contexts | record.conditions.keys()
    observables = {
        name
        for stage in record.stages
        if not given.issuperset(stage.inputs)
        for name in stage.outputs
        if name not in given
    }
    observables |= {name for entry in record.derivations.values() for name in entry.variables}
    prior = [name for name in names if name not in observables]
    if any(stage.kind in _NESTED for stage in record.stages) or not observables & set(names) or not prior:
        raise ArgumentError(
            "the dataset does not say which variables are parameters; name them, as in "
            f"to_arviz(source, parameters={list(names[:1])}); variables: {', '.join(map(repr, names))}"
        )
    return prior
