"""One function as a simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from dasksim._core.attributes import check_attrs
from dasksim._core.checks import check_flag
from dasksim._core.labels import check_labels
from dasksim._core.variables import declared_variables
from dasksim._engine.compiled import CompiledStage
from dasksim._engine.functions import BatchedStage, ContextStage, function_name
from dasksim._engine.row_functions import RowStage
from dasksim._engine.stage import Stage, within
from dasksim._engine.steps import Lowering
from dasksim.errors import ArgumentError, ArgumentTypeError
from dasksim.simulators.simulator import Simulator

__all__ = ["LambdaSimulator"]


class LambdaSimulator(Simulator):
    """A simulator of one function.

    Parameters
    ----------
    sample_fn
        Any callable that returns a dict of variables. It is given what its parameters name: variables made before it,
        conditions, contexts, and ``rng`` (a :class:`numpy.random.Generator` on the stream of this stage and sample, or
        sub-batch), ``seed`` (an integer of 63 bits) or ``xp`` (the array namespace).
    is_batched
        If true, the function is called once for a whole sub-batch, with ``batch_shape`` as its first argument (or by
        that name), and returns arrays that begin with it. Otherwise it is called once for each sample.
    is_context
        If true, the function is called once for each sub-batch and returns values that the whole of it shares.
    dims
        Names of feature dims, by variable.
    coords
        Coordinates: values by feature dim, or, along a dim of another name, ``(dim, values)``, ``(dim, values, attrs)``
        or a DataArray.
    attrs
        Attributes such as ``units`` and ``long_name``, by the name of a variable or coordinate.
    can_use_gpu
        Whether a batched function can be given arrays of a GPU, and a generator of CuPy's; by default if it takes
        ``xp``.
    compile
        ``"numba"`` compiles a function that is called once for each sample, with the loop over the samples; values stay
        as they are. It draws from ``rng`` alone, returns literal dicts, and does what Numba can compile. Both are
        compared bit by bit before anything is simulated, and samples are by the audit.
    schema
        Shape of one sample and dtype, by variable, as the function returns them. By default the function is run on one
        or two samples to find them.

    Examples
    --------
    >>> simulator = LambdaSimulator(lambda batch_shape, rng: {"x": rng.normal(size=batch_shape)}, is_batched=True)
    >>> simulator.sample(4, seed=1).x.shape
    (4,)
    """

    def __init__(
        self,
        sample_fn: Callable[..., Any],
        is_batched: bool = False,
        *,
        is_context: bool = False,
        dims: Mapping[str, str | Sequence[str]] | None = None,
        coords: Mapping[str, Any] | None = None,
        attrs: Mapping[str, Mapping[str, Any]] | None = None,
        schema: Mapping[str, Any] | None = None,
        can_use_gpu: bool | None = None,
        compile: Literal["numba"] | None = None,  # noqa: A002
    ) -> None:
        super().__init__()
        if not callable(sample_fn):
            raise ArgumentTypeError(f"sample_fn must be callable; got {sample_fn!r}")
        self.sample_fn = sample_fn
        self.is_batched = check_flag("is_batched", is_batched)
        self.is_context = check_flag("is_context", is_context)
        self.dims, self.coords = check_labels(dims, coords)
        self.attrs = check_attrs(attrs)
        self.can_use_gpu = None if can_use_gpu is None else check_flag("can_use_gpu", can_use_gpu)
        if can_use_gpu and (is_context or not is_batched):
            raise ArgumentError("can_use_gpu=True is for a batched function, which computes with whole arrays")
        if compile not in (None, "numba"):
            raise ArgumentError(f"compile must be 'numba' or None; got {compile!r}")
        if compile and (is_context or is_batched):
            raise ArgumentError("compile='numba' is for a function that is called once for each sample")
        self.compile = compile
        self._declared = declared_variables(schema)

    def lower(self, path: str = "") -> Lowering:
        name = path if path and not path.endswith("/") else within(path, function_name(self.sample_fn))
        stage: Stage
        if self.is_batched and not self.is_context:
            stage = BatchedStage(name, self.sample_fn, self._declared, self.can_use_gpu)
        else:
            kind = ContextStage if self.is_context else CompiledStage if self.compile else RowStage
            stage = kind(name, self.sample_fn, self._declared)
        return Lowering((stage,), dims=self.dims, coords=self.coords, attrs=self.attrs)
