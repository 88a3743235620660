"""A simulator of each class."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dasksim import (
    ExternalProgram,
    GraphicalSimulator,
    HierarchicalSimulator,
    ModelComparisonSimulator,
    RejectionSimulator,
    Simulator,
    make_simulator,
)

Rng = np.random.Generator


_hidden = np.random.default_rng(2025)


@dataclass(frozen=True)
class Kind:
    """A class of simulators, and the further axes of its batch shape."""

    make: Callable[[], Simulator]
    further: tuple[int, ...] = ()

    def sample(self, n: int, **options: Any) -> xr.Dataset:
        return self.make().sample((n, *self.further), **options)


def square(batch_shape: tuple[int, ...], rng: Rng) -> dict[str, Any]:
    return {"x": rng.uniform(-1, 1, batch_shape), "y": rng.uniform(-1, 1, batch_shape)}


def point() -> dict[str, Any]:
    return {"x": _hidden.uniform(-1, 1), "y": np.random.uniform(-1, 1)}


def measure(x: float, y: float, rng: Rng) -> dict[str, Any]:
    return {"r": np.hypot(x, y) + rng.normal(size=2)}


def in_circle(x: Any, y: Any) -> Any:
    return x**2 + y**2 < 0.5


def rejection() -> Simulator:
    return RejectionSimulator(make_simulator([square, measure], obj_kwargs=[{"is_batched": True}, None]), in_circle)


def rejection_by_rows() -> Simulator:
    return RejectionSimulator(make_simulator([point, measure]), lambda variables: variables["r"][:, 0] > 1)


def normal(rng: Rng) -> dict[str, Any]:
    return {"data": rng.normal(size=3), "light": rng.integers(9)}


def student(batch_shape: tuple[int, ...], rng: Rng) -> dict[str, Any]:
    return {"data": rng.standard_t(3, size=(*batch_shape, 3))}


def models() -> list[Simulator]:
    return [make_simulator(normal), make_simulator(student, is_batched=True)]


def mixed() -> Simulator:
    return ModelComparisonSimulator(models(), p=[0.4, 0.6], key_conflicts="fill")


def unmixed() -> Simulator:
    return ModelComparisonSimulator(models(), logits=[0.0, 1.0], use_mixed_batches=False)


def shared(batch_shape: tuple[int, ...], rng: Rng) -> dict[str, Any]:
    return {"scale": rng.uniform(1, 2), "loc": rng.normal(size=batch_shape)}


def with_shared() -> Simulator:
    return ModelComparisonSimulator(
        {
            "normal": lambda loc, scale, rng: {"data": rng.normal(loc, scale, size=3)},
            "student": lambda loc, scale: {"data": loc + scale * _hidden.standard_t(3, size=3)},
        },
        shared_simulator=shared,
    )


def comparison_of_rejections() -> Simulator:
    return ModelComparisonSimulator({"circle": rejection(), "rows": rejection_by_rows()}, key_conflicts="drop")


def rejection_of_comparison() -> Simulator:
    return RejectionSimulator(mixed(), lambda data: data[:, 0] > 0.5)


def hierarchy() -> Simulator:
    return HierarchicalSimulator(
        [
            lambda rng: {"mean": rng.normal()},
            lambda mean, rng: {"ability": rng.normal(mean)},
            lambda ability, rng: {"score": rng.normal(ability, size=2)},
        ],
        levels=["student", "test"],
    )


def graph() -> Simulator:
    simulator = GraphicalSimulator(lambda rng: {"n_students": int(rng.integers(2, 6))}, max_sizes={"student": 5})
    simulator.add_node("school", lambda rng: {"difficulty": rng.normal()})
    simulator.add_node("question", lambda difficulty, rng: {"item": rng.normal(difficulty)}, reps=3)
    many: dict[str, Any] = {"reps": "n_students", "is_batched": True}
    simulator.add_node("student", lambda batch_shape, rng: {"ability": rng.normal(size=batch_shape)}, **many)
    simulator.add_node("answer", lambda item, ability, rng: {"correct": float(rng.normal() < ability - item)})
    for parent, child in (("school", "question"), ("question", "answer"), ("student", "answer")):
        simulator.add_edge(parent, child)
    return simulator


def external() -> Simulator:
    words = ["sh", "-c", "echo $1 $(($2 % 1000000007))", "sh", "{y}", "{seed}"]
    return make_simulator([point, ExternalProgram(words, outputs={"drawn": "stdout"})])


KINDS = {
    "rejection": Kind(rejection),
    "rejection_by_rows": Kind(rejection_by_rows),
    "mixed": Kind(mixed),
    "unmixed": Kind(unmixed),
    "with_shared": Kind(with_shared),
    "comparison_of_rejections": Kind(comparison_of_rejections),
    "rejection_of_comparison": Kind(rejection_of_comparison),
    "hierarchy": Kind(hierarchy, (3, 2)),
    "graph": Kind(graph),
    "external": Kind(external),
}


def by_name(kinds: dict[str, Kind], *of_others: str) -> list[Any]:
    """Return kinds as parameters; those that are made of others are slow."""
    marks = {name: pytest.mark.slow if name in of_others else () for name in kinds}
    return [pytest.param(kind, id=name, marks=marks[name]) for name, kind in kinds.items()]


kinds = pytest.mark.parametrize(
    "kind", by_name(KINDS, "comparison_of_rejections", "rejection_of_comparison", "external")
)


def late(a: float, rng: np.random.Generator) -> dict[str, Any]:
    """Draw from the global generator at some samples only, by a way that neither the code nor a probe shows."""
    noise = vars(np)["random"].normal() if a > 1.5 else rng.normal()
    return {"x": a + noise}
