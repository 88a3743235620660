"""How much faster dasksim samples than BayesFlow, as ratios measured in one run.

Needs BayesFlow and a backend of Keras::

    KERAS_BACKEND=torch python benchmarks/against_bayesflow.py
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import bayesflow as bf
import numpy as np
from bayesflow.experimental.graphical_simulator import example_simulators

import dasksim
from dasksim.models import crossed_design_irt, three_level, two_level


def seconds_a_sample(run: Callable[[int], Any], n: int, repeats: int) -> float:
    """Return the median time for a sample."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run(n)
        times.append((time.perf_counter() - start) / n)
    return statistics.median(times[1:])


def ours(simulator: dasksim.Simulator, **options: Any) -> Callable[[int], Any]:
    """Return a function that samples in one thread."""
    return lambda n: simulator.sample(n, **options).compute(scheduler="synchronous")


def same_functions(theirs: Any) -> dasksim.GraphicalSimulator:
    """Return a dasksim graph of the very functions of a BayesFlow graph; a plate cannot have a variable's name."""
    graph = dasksim.GraphicalSimulator(theirs.meta_fn)
    for node, attributes in theirs.graph.nodes.items():
        graph.add_node(f"node_{node}", attributes["sample_fn"], attributes["reps"])
    for parent, child in theirs.graph.edges:
        graph.add_edge(f"node_{parent}", f"node_{child}")
    return graph


def models() -> list[Callable[..., Any]]:
    """Return three models, not batched, for a comparison."""
    rng = np.random.default_rng(1)

    def normal() -> dict[str, Any]:
        return {"x": rng.normal(size=10)}

    def uniform() -> dict[str, Any]:
        return {"x": rng.uniform(size=10)}

    def student() -> dict[str, Any]:
        return {"x": rng.standard_t(3, size=10)}

    return [normal, uniform, student]


def batched_models() -> list[dasksim.Simulator]:
    """Return the same three models, batched."""
    draws = {
        "normal": lambda batch_shape, rng: {"x": rng.normal(size=(*batch_shape, 10))},
        "uniform": lambda batch_shape, rng: {"x": rng.uniform(size=(*batch_shape, 10))},
        "student": lambda batch_shape, rng: {"x": rng.standard_t(3, size=(*batch_shape, 10))},
    }
    return [dasksim.LambdaSimulator(draw, is_batched=True) for draw in draws.values()]


def report(what: str, theirs: float, batched: float, same: float) -> None:
    """Print one line of the table."""
    print(
        f"| {what} | {theirs * 1e3:.3f} | {batched * 1e3:.4f} | {theirs / batched:.0f} | {same * 1e3:.3f} | "
        f"{theirs / same:.1f} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    print("| model | BayesFlow, ms a sample | batched nodes, ms | ratio | same functions, ms | ratio |")
    print("|---|---|---|---|---|---|")
    graphs = {
        "two levels": (two_level(), example_simulators.two_level_simulator(), 400),
        "three levels": (three_level(), example_simulators.three_level_simulator(), 40),
        "crossed IRT": (crossed_design_irt(), example_simulators.crossed_design_irt_simulator(), 40),
    }
    for name, (batched, theirs, n) in graphs.items():
        other = seconds_a_sample(lambda n, s=theirs: s.sample((n,)), n, 3)
        many = seconds_a_sample(ours(batched), 20_000, 3)
        same = seconds_a_sample(ours(same_functions(theirs), sub_batch_size=n), n, 3)
        report(name, other, many, same)
    comparison = bf.simulators.ModelComparisonSimulator([bf.make_simulator(model) for model in models()])
    other = seconds_a_sample(lambda n: comparison.sample(n), 20_000, 3)
    many = seconds_a_sample(ours(dasksim.ModelComparisonSimulator(batched_models())), 1_000_000, 3)
    same = seconds_a_sample(ours(dasksim.ModelComparisonSimulator(models())), 20_000, 3)
    report("three models", other, many, same)


if __name__ == "__main__":
    main()
