"""Hypothesis strategies for simulators: batched, unbatched and mixed, with contexts, own and hidden generators."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from dasksim import Simulator, make_simulator

DTYPES = ("float32", "float64", "int64", "bool")
SHAPES = ((), (3,), (2, 2))
SOURCES = ("rng", "hidden", "legacy")

_hidden = np.random.default_rng(2025)


@dataclass(frozen=True)
class Field:
    """A variable: its shape, its dtype, and whether a scalar of it is returned as a Python number."""

    shape: tuple[int, ...] = ()
    dtype: str = "float64"
    is_python: bool = False

    def of(self, normal: npt.NDArray[Any]) -> Any:
        if self.dtype == "bool":
            values = normal > 0
        elif self.dtype == "int64":
            values = np.rint(1000 * normal).astype("int64")
        else:
            values = normal.astype(self.dtype)
        return values.item() if self.is_python and values.ndim == 0 else values


@dataclass(frozen=True)
class Draw:
    """What a stage does: draw normals, shift them by its inputs, cast them."""

    fields: tuple[tuple[str, Field], ...]

    def __call__(self, random: Any, axes: tuple[int, ...] = (), *inputs: Any) -> dict[str, Any]:
        outputs = {}
        for name, field in self.fields:
            normal = np.asarray(random.normal(size=(*axes, *field.shape)))
            for value in inputs:
                shift = np.asarray(value, "float64")
                if shift.ndim:
                    shift = shift.reshape((*axes, -1)).sum(-1).reshape((*axes, *(1,) * len(field.shape)))
                normal = np.asarray(normal + shift)
            outputs[name] = field.of(normal)
        return outputs


def _prior(draw: Draw, is_batched: bool, source: str) -> Callable[..., Any]:
    functions: dict[tuple[bool, str], Callable[..., Any]] = {
        (True, "rng"): lambda batch_shape, rng: draw(rng, batch_shape),
        (True, "hidden"): lambda batch_shape: draw(_hidden, batch_shape),
        (True, "legacy"): lambda batch_shape: draw(np.random, batch_shape),
        (False, "rng"): lambda rng: draw(rng),
        (False, "hidden"): lambda: draw(_hidden),
        (False, "legacy"): lambda: draw(np.random),
    }
    return functions[is_batched, source]


def _likelihood(draw: Draw, is_batched: bool, source: str) -> Callable[..., Any]:
    functions: dict[tuple[bool, str], Callable[..., Any]] = {
        (True, "rng"): lambda batch_shape, theta, rng: draw(rng, batch_shape, theta),
        (True, "hidden"): lambda batch_shape, theta: draw(_hidden, batch_shape, theta),
        (True, "legacy"): lambda batch_shape, theta: draw(np.random, batch_shape, theta),
        (False, "rng"): lambda theta, rng: draw(rng, (), theta),
        (False, "hidden"): lambda theta: draw(_hidden, (), theta),
        (False, "legacy"): lambda theta: draw(np.random, (), theta),
    }
    return functions[is_batched, source]


def _summary(draw: Draw, is_batched: bool, source: str) -> Callable[..., Any]:
    functions: dict[tuple[bool, str], Callable[..., Any]] = {
        (True, "rng"): lambda batch_shape, theta, x, rng: draw(rng, batch_shape, theta, x),
        (True, "hidden"): lambda batch_shape, theta, x: draw(_hidden, batch_shape, theta, x),
        (True, "legacy"): lambda batch_shape, theta, x: draw(np.random, batch_shape, theta, x),
        (False, "rng"): lambda theta, x, rng: draw(rng, (), theta, x),
        (False, "hidden"): lambda theta, x: draw(_hidden, (), theta, x),
        (False, "legacy"): lambda theta, x: draw(np.random, (), theta, x),
    }
    return functions[is_batched, source]


def _with_context(function: Callable[..., Any], is_batched: bool) -> Callable[..., Any]:
    """A last stage that uses the context too; it takes no ``rng`` of its own."""
    if is_batched:
        return lambda batch_shape, theta, level: {"level_theta": function(theta, level, batch_shape)}
    return lambda theta, level: {"level_theta": function(theta, level, ())}


def _level(rng: np.random.Generator) -> dict[str, Any]:
    return {"level": int(rng.integers(1, 1000))}


def _scaled(theta: Any, level: int, axes: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return np.asarray(level * np.asarray(theta, "float64").reshape((*axes, -1)).sum(-1))


_MAKERS = {"prior": _prior, "likelihood": _likelihood, "summary": _summary}
_NAMES = {"prior": ("theta", "tau"), "likelihood": ("x", "y"), "summary": ("z", "w")}


@dataclass(frozen=True)
class Recipe:
    """How to make a simulator; its representation is what Hypothesis shows of a failure."""

    stages: tuple[tuple[bool, str, tuple[Field, ...]], ...]
    has_context: bool = False

    def simulator(self) -> Simulator:
        functions: dict[str, Callable[..., Any]] = {}
        options: dict[str, Mapping[str, Any]] = {}
        for name, (is_batched, source, fields) in zip(_MAKERS, self.stages, strict=False):
            draw = Draw(tuple(zip(_NAMES[name], fields, strict=False)))
            functions[name] = _MAKERS[name](draw, is_batched, source)
            options[name] = {"is_batched": is_batched}
        if self.has_context:
            is_batched = self.stages[-1][0]
            functions["scaled"] = _with_context(_scaled, is_batched)
            options["scaled"] = {"is_batched": is_batched}
        return make_simulator(functions, meta_fn=_level if self.has_context else None, obj_kwargs=options)


def fields() -> st.SearchStrategy[Field]:
    return st.builds(Field, st.sampled_from(SHAPES), st.sampled_from(DTYPES), st.booleans())


def recipes() -> st.SearchStrategy[Recipe]:
    stage = st.tuples(st.booleans(), st.sampled_from(SOURCES), st.lists(fields(), min_size=1, max_size=2).map(tuple))
    return st.builds(Recipe, st.lists(stage, min_size=1, max_size=3).map(tuple), st.booleans())


@dataclass(frozen=True)
class Cut:
    """How many samples, and how they are cut: chunks are whole sub-batches, the last of both may be short."""

    n_samples: int
    further: tuple[int, ...]
    sub_batch_size: int
    sub_batches: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.n_samples, *self.further)

    @property
    def options(self) -> dict[str, Any]:
        return {"sub_batch_size": self.sub_batch_size, "chunk_size": self.sub_batch_size * self.sub_batches}


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    size = draw(st.integers(1, 9))
    n = draw(st.integers(1, 40))  # or less than one sub-batch
    return Cut(n, draw(st.sampled_from([(), (2,)])), size, draw(st.integers(1, 4)))


#: One recipe of each kind, for what is too slow to run on drawn ones.
KINDS = {
    "batched": Recipe(((True, "rng", (Field((3,)),)), (True, "rng", (Field((), "float32"), Field((2, 2))))), True),
    "unbatched": Recipe(((False, "rng", (Field(is_python=True),)), (False, "rng", (Field((3,), "int64"),))), True),
    "rows_then_batched": Recipe(((False, "rng", (Field(),)), (True, "rng", (Field((3,), "bool"),)))),
    "batched_then_rows": Recipe(((True, "rng", (Field((3,)),)), (False, "rng", (Field((2, 2), "float32"),)))),
    "three_stages": Recipe(
        ((True, "rng", (Field(),)), (False, "rng", (Field((3,)),)), (True, "rng", (Field((2, 2)),))), True
    ),
    "hidden": Recipe(((True, "hidden", (Field((3,)),)), (False, "hidden", (Field(),)))),
    "legacy": Recipe(((True, "legacy", (Field((3,)),)), (False, "legacy", (Field(),)))),
}
