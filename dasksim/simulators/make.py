"""The way from plain functions to a simulator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from dasksim._core.checks import check_flag
from dasksim._engine.functions import function_name
from dasksim.errors import ArgumentError, ArgumentTypeError, nearest
from dasksim.simulators.bayesflow_adapter import BayesFlowAdapter
from dasksim.simulators.lambda_simulator import LambdaSimulator
from dasksim.simulators.sequential_simulator import SequentialSimulator
from dasksim.simulators.simulator import Simulator
from dasksim.simulators.wrap_bayesflow import from_bayesflow

__all__ = ["SimulatorLike", "as_simulator", "is_simulator_like", "make_simulator"]

#: A simulator, or what :func:`make_simulator` makes one of.
SimulatorLike: TypeAlias = Simulator | Callable[..., Any] | Sequence[Any] | Mapping[str, Any]

# Keyword arguments for all functions, by name, or for each.
ObjectArguments: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any] | None]

_LAMBDA_ARGUMENTS = ("is_batched", "is_context", "dims", "coords", "attrs", "schema", "can_use_gpu", "compile")


def make_simulator(
    obj: Any,
    meta_fn: Callable[..., Any] | Mapping[str, Any] | None = None,
    obj_kwargs: ObjectArguments | Callable[..., Any] | None = None,
    expand_outputs: bool = True,
    replace_inputs: bool = True,
    *,
    is_batched: bool = False,
    dims: Mapping[str, str | Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    attrs: Mapping[str, Mapping[str, Any]] | None = None,
    schema: Mapping[str, Any] | None = None,
    max_sizes: Mapping[str, int] | None = None,
    fill_value: Any = math.nan,
    compile: Literal["numba"] | None = None,  # noqa: A002
) -> Simulator:
    """Make a simulator of a function, any callable, a simulator, or a sequence or mapping of them.

    Parameters
    ----------
    obj
        A function (or partial, bound method, callable object) that returns a dict of variables, a
        :class:`~dasksim.Simulator`, one of BayesFlow's, or a sequence or a mapping of these, which run one after the
        other. The keys of a mapping name the stages.
    meta_fn
        A function that is called once for each sub-batch and returns a dict of contexts: values that the whole
        sub-batch shares.
    obj_kwargs
        Keyword arguments of :class:`~dasksim.LambdaSimulator`: a mapping for all functions, a sequence with a mapping
        or None for each, or a mapping of names to mappings: of the keys of ``obj`` where it is a mapping, else of its
        functions. A mapping whose values are all mappings, and whose keys are not all arguments, goes by name. By
        position it may stand before ``meta_fn``, as in BayesFlow.
    expand_outputs
        Whether scalars of a sequence or mapping get a trailing axis of size 1, whose dim is ``scalar`` for all of them.
    replace_inputs
        Whether a condition replaces the simulated variable of its name for all later stages.
    is_batched
        Whether functions are called once for a whole sub-batch; ``obj_kwargs`` goes before it.
    dims
        Names of feature dims, by variable. Others are named ``{variable}_dim_{i}``.
    coords
        Coordinates: values by feature dim, or, along a dim of another name, ``(dim, values)``, ``(dim, values, attrs)``
        or a DataArray.
    attrs
        Attributes by the name of a variable or coordinate, such as ``{"x": {"units": "mV"}}``: what JSON can hold. They
        are kept in stores, and plots take their labels from ``long_name`` and ``units``.
    schema
        For a single function: shape of one sample and dtype, by variable, instead of a probe.
    max_sizes
        Largest sizes of dims whose size follows a context or differs between samples, such as ``{"obs": 100}``. The
        dataset has these sizes, the rest is ``fill_value``, and ``{variable}_size`` says how long each sample is.
    fill_value
        What stands beyond the size of a sub-batch. Integers and booleans need one that they can hold.
    compile
        ``"numba"`` compiles functions that are called once for each sample, some of them if ``obj_kwargs`` says so; see
        :class:`~dasksim.LambdaSimulator`. Values stay as they are.

    Returns
    -------
    Simulator

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used.

    Examples
    --------
    >>> def prior(rng):
    ...     return {"mu": rng.normal(), "sigma": rng.uniform()}
    >>> def likelihood(mu, sigma, rng):
    ...     return {"x": rng.normal(mu, sigma, size=3)}
    >>> simulator = make_simulator([prior, likelihood], dims={"x": ["time"]})
    >>> simulator.sample(2, seed=2025).x.dims
    ('batch', 'time')
    """
    if isinstance(meta_fn, Mapping) or (meta_fn is None and callable(obj_kwargs)):
        in_bayesflows_order: tuple[Any, Any] = obj_kwargs, meta_fn
        meta_fn, obj_kwargs = in_bayesflows_order
    more = {"schema": schema, "compile": compile}
    options = {"is_batched": is_batched, **{name: value for name, value in more.items() if value is not None}}
    check_flag("expand_outputs", expand_outputs)
    check_flag("replace_inputs", replace_inputs)
    if isinstance(obj, Mapping | Sequence) and not isinstance(obj, str | bytes):
        if schema is not None:
            raise ArgumentError("schema is for a single function; give obj_kwargs a mapping with 'schema' for each")
        simulators = _wrap_all(obj, obj_kwargs, options)
        expand = expand_outputs
    else:
        if obj_kwargs is not None and not isinstance(obj_kwargs, Mapping):
            raise ArgumentTypeError(f"obj_kwargs must be a mapping for a single function; got {obj_kwargs!r}")
        if isinstance(obj, Simulator) and meta_fn is None:
            if dims or coords or attrs or schema or is_batched:
                raise ArgumentError(
                    "is_batched, dims, coords, attrs and schema belong to the simulator that is given; set them where "
                    "it is made"
                )
            return _wrap(obj, obj_kwargs, options)
        if meta_fn is None and max_sizes is None:
            return _wrap(obj, obj_kwargs, {**options, "dims": dims, "coords": coords, "attrs": attrs})
        simulators = [_wrap(obj, obj_kwargs, options)]
        # one function keeps the shapes that it returns, with contexts as without
        expand = False
    if meta_fn is not None:
        simulators = _with_context(meta_fn, simulators)
    return SequentialSimulator(
        simulators,
        expand,
        replace_inputs,
        dims=dims,
        coords=coords,
        attrs=attrs,
        max_sizes=max_sizes,
        fill_value=fill_value,
    )


def _wrap_all(
    obj: Mapping[str, Any] | Sequence[Any], obj_kwargs: Any, options: Mapping[str, Any]
) -> Mapping[str, Simulator] | Sequence[Simulator]:
    """Wrap each member with its own keyword arguments."""
    names = list(obj) if isinstance(obj, Mapping) else [function_name(one) for one in obj]
    members = list(obj.values()) if isinstance(obj, Mapping) else list(obj)
    if _is_by_name(obj_kwargs, names):
        for name in obj_kwargs:
            if name not in names:
                known = "obj lacks" if isinstance(obj, Mapping) else "no function of obj has"
                raise ArgumentError(f"obj_kwargs has the key {name!r}, which {known}; {nearest(name, names)}")
            if names.count(name) > 1:
                raise ArgumentError(
                    f"obj_kwargs names {name!r}, but {names.count(name)} functions have that name; give a sequence "
                    "with a mapping or None for each"
                )
        each = [obj_kwargs.get(name) for name in names]
    else:
        each = list(_each(obj_kwargs, len(members)))
    wrapped = [_wrap(one, more, options) for one, more in zip(members, each, strict=True)]
    return dict(zip(names, wrapped, strict=True)) if isinstance(obj, Mapping) else wrapped


def _is_by_name(obj_kwargs: Any, names: Sequence[str]) -> bool:
    """Whether keyword arguments are given by name: a function named like one of them does not make it so."""
    if not isinstance(obj_kwargs, Mapping) or not obj_kwargs or set(obj_kwargs) <= set(_LAMBDA_ARGUMENTS):
        return False
    return any(key in names for key in obj_kwargs) or all(isinstance(v, Mapping | None) for v in obj_kwargs.values())


def _each(obj_kwargs: Any, n: int) -> Sequence[Mapping[str, Any] | None]:
    """Return one mapping (or None) for each of ``n`` objects."""
    if obj_kwargs is None or isinstance(obj_kwargs, Mapping):
        return [obj_kwargs] * n
    if isinstance(obj_kwargs, str | bytes) or not isinstance(obj_kwargs, Sequence):
        raise ArgumentTypeError(f"obj_kwargs must be a mapping, or a sequence of mappings or None; got {obj_kwargs!r}")
    if len(obj_kwargs) != n:
        raise ArgumentError(f"obj_kwargs has {len(obj_kwargs)} entries for {n} objects; give one for each, or None")
    return list(obj_kwargs)


def is_simulator_like(obj: object) -> bool:
    """Whether ``obj`` is a simulator, or something that one can be made of."""
    if isinstance(obj, Mapping | Sequence) and not isinstance(obj, str | bytes):
        members = list(obj.values() if isinstance(obj, Mapping) else obj)
        return bool(members) and all(map(is_simulator_like, members))
    # simulators of BayesFlow have both methods; frames and distributions only the first
    is_bayesflows = all(callable(getattr(obj, name, None)) for name in ("sample", "rejection_sample"))
    return isinstance(obj, Simulator) or callable(obj) or is_bayesflows


def as_simulator(obj: Any, name: str = "simulator") -> Simulator:
    """Return a simulator as it is, and make one of functions.

    Raises
    ------
    ArgumentTypeError
        If it is neither.
    """
    if not is_simulator_like(obj):
        models = "; models are made by calls such as dasksim.models.two_moons()" if isinstance(obj, str) else ""
        raise ArgumentTypeError(
            f"{name} must be a Simulator, such as make_simulator returns, or functions to make one of, such as "
            f"[prior, likelihood]; got {obj!r}{models}"
        )
    return obj if isinstance(obj, Simulator) else make_simulator(obj)


def _wrap(obj: Any, obj_kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Simulator:
    if not isinstance(obj_kwargs, Mapping | None):
        raise ArgumentTypeError(f"obj_kwargs must hold a mapping, or None, for each function; got {obj_kwargs!r}")
    for name in obj_kwargs or ():
        if name not in _LAMBDA_ARGUMENTS:
            raise ArgumentError(f"obj_kwargs holds {name!r}; {nearest(name, _LAMBDA_ARGUMENTS)}")
    if isinstance(obj, BayesFlowAdapter):
        obj = obj._simulator
    elif not callable(obj) and callable(getattr(obj, "sample", None)) and not isinstance(obj, Simulator):
        # of BayesFlow: what else has a method `sample` returns no dict, which is said then
        obj = from_bayesflow(obj)
    if isinstance(obj, Simulator):
        if obj_kwargs:
            raise ArgumentError(f"obj_kwargs {dict(obj_kwargs)!r} is for a function, but got the simulator {obj!r}")
        return obj
    if not callable(obj):
        is_nested = isinstance(obj, Mapping | Sequence) and not isinstance(obj, str | bytes)
        advice = (
            "wrap the inner one in make_simulator first"
            if is_nested
            else "give a function, a Simulator, or a sequence or mapping of them"
        )
        raise ArgumentTypeError(f"cannot make a simulator of {obj!r}; {advice}")
    return LambdaSimulator(obj, **{**options, **(obj_kwargs or {})})


def _with_context(
    meta_fn: Any, simulators: Mapping[str, Simulator] | Sequence[Simulator]
) -> Mapping[str, Simulator] | Sequence[Simulator]:
    if not callable(meta_fn):
        raise ArgumentTypeError(f"meta_fn must be callable; got {meta_fn!r}")
    context = LambdaSimulator(meta_fn, is_context=True)
    if isinstance(simulators, Mapping):
        return {function_name(meta_fn): context, **simulators}
    return [context, *simulators]
