"""The benchmark models: how right and how fast they are, against the draws alone and against BayesFlow.

Prints one table. Everything is timed in one run, the best of several repeats, so that it holds on a machine that others
use too; "one core" is the processor time of one thread, "two cores" the time on the wall. BayesFlow's columns are
empty where it cannot be imported::

    OPENBLAS_NUM_THREADS=1 KERAS_BACKEND=torch python benchmarks/models.py

Statistics are compared and equations solved as in the tests, whose folder must be beside this one.
"""

import argparse
import importlib
import itertools
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dasksim import Simulator
from dasksim.models import MODELS

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from flow_rows import LV_TIMES, SIR_TIMES, clipped, exact, lv_rates, lv_rows, normals, sir_rates, sir_rows, solved
from model_statistics import REFERENCE, z_scores

#: Random numbers a sample takes at the default options: uniform, normal, exponential (in double precision), integer and
#: binomial ones.
DRAWS = {
    ("two_moons", "bayesflow"): {"uniform": 3, "normal": 1},
    ("gaussian_linear", "bayesflow"): {"normal": 20},
    ("gaussian_linear", "sbibm"): {"normal": 20},
    ("gaussian_linear_uniform", "bayesflow"): {"uniform": 10, "normal": 10},
    ("gaussian_linear_uniform", "sbibm"): {"uniform": 10, "normal": 10},
    ("gaussian_mixture", "bayesflow"): {"uniform": 3, "normal": 2},
    ("slcp", "bayesflow"): {"uniform": 5, "normal": 8},
    ("slcp", "sbibm"): {"uniform": 5, "normal": 8},
    ("slcp_distractors", "bayesflow"): {"uniform": 5, "normal": 8 + 40 + 92, "exponential": 46, "integer": 46},
    ("slcp_distractors", "sbibm"): {"uniform": 5, "normal": 8 + 92, "exponential": 1, "integer": 1},
    ("bernoulli_glm", "bayesflow"): {"uniform": 100, "normal": 10 + 100 + 9},
    ("bernoulli_glm", "sbibm"): {"uniform": 100, "normal": 10},
    ("bernoulli_glm_raw", "bayesflow"): {"uniform": 100, "normal": 10 + 900},
    ("bernoulli_glm_raw", "sbibm"): {"uniform": 100, "normal": 10},
    ("sir", "bayesflow"): {"normal": 2, "binomial": 10},
    ("sir", "sbibm"): {"normal": 2, "binomial": 10},
    ("lotka_volterra", "bayesflow"): {"normal": 4 + 20},
    ("inverse_kinematics", "bayesflow"): {"normal": 4},
}

BAYESFLOW = {
    "two_moons": "TwoMoons",
    "gaussian_linear": "GaussianLinear",
    "gaussian_linear_uniform": "GaussianLinearUniform",
    "gaussian_mixture": "GaussianMixture",
    "slcp": "SLCP",
    "slcp_distractors": "SLCPDistractors",
    "bernoulli_glm": "BernoulliGLM",
    "bernoulli_glm_raw": "BernoulliGLMRaw",
    "sir": "SIR",
    "lotka_volterra": "LotkaVolterra",
    "inverse_kinematics": "InverseKinematics",
}

HEADER = (
    "| model | variant | worst z | ODE error | k samples/s, one core | two cores | floor, ns | one core / floor "
    "| BayesFlow, µs | ratio, one core | two cores |"
)


def best(run: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    """Return the shortest time of several calls."""
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)


def n_for(run: Callable[[int], object], seconds: float, most: int) -> int:
    """Return a number of samples that takes about so many seconds, and at most ``most``."""
    n = 4
    while n < most:
        took = best(lambda n=n: run(n), 1, time.process_time)
        if took > seconds / 4:
            return min(most, max(1, int(n * seconds / took)))
        n *= 4
    return most


def floor_rates() -> dict[str, float]:
    """Return the nanoseconds of one draw of each kind, by the generator that functions are given."""
    rng, n = np.random.Generator(np.random.SFC64(1)), 1 << 14
    p = MODELS["sir"]().sample(n // 10, seed=1).observables.values.ravel()
    draws = {
        "uniform": lambda: rng.random(n, dtype="float32"),
        "normal": lambda: rng.standard_normal(n, dtype="float32"),
        "exponential": lambda: rng.standard_exponential(n),
        "integer": lambda: rng.integers(0, 20, size=n),
        "binomial": lambda: rng.binomial(1000, p),
    }
    return {kind: best(draw, 50, time.process_time) / n * 1e9 for kind, draw in draws.items()}


def speeds(simulator: Simulator, scale: float, is_ode: bool, repeats: int) -> tuple[float, float]:
    """Return the seconds a sample takes, on one core and on two."""
    row_bytes = sum(array.nbytes for array in simulator.sample(2, seed=1).data_vars.values()) / 2
    n = int(scale * (1 << 16 if is_ode else min(1 << 21, 1e8 / row_bytes)))
    lazy = simulator.sample(n, seed=1)
    one = best(lambda: lazy.compute(scheduler="synchronous"), repeats, time.process_time)
    two = best(lambda: lazy.compute(scheduler="threads", num_workers=2), repeats, time.perf_counter)
    return one / n, two / n


def theirs(name: str, seconds: float, repeats: int) -> float:
    """Return the seconds a sample of BayesFlow takes; NaN without BayesFlow."""
    try:
        module = importlib.import_module("bayesflow.simulators")
    except ImportError:
        return math.nan
    simulator = getattr(module, BAYESFLOW[name])(rng=np.random.default_rng(1))
    n = n_for(simulator.sample, seconds, 1_000_000)
    return best(lambda: simulator.sample(n), repeats, time.process_time) / n


def worst_z(name: str, n: int) -> float:
    """Return the largest deviation from the reference statistics, in standard errors."""
    scores = z_scores(name, MODELS[name]().sample(n, seed=2025).compute())
    return max(float(np.abs(z).max()) for z in scores.values())


def ode_error(name: str, n: int) -> float:
    """Return the largest error against scipy, over draws of the prior and where all rates are 5 deviations off."""
    n_rates, rates, rows, times = (2, sir_rates, sir_rows, SIR_TIMES)
    if name == "lotka_volterra":
        n_rates, rates, rows, times = (4, lv_rates, lv_rows, LV_TIMES)
    extremes = list(itertools.product((-5, 0, 5), repeat=n_rates))
    worst = 0.0
    for z in (normals(n, n_rates), extremes):
        found, truth = (solve(*rows(rates(z)), times) for solve in (solved, exact))
        compared = [np.exp(logs[1]) if name == "sir" else clipped(logs) for logs in (found, truth)]
        worst = max(worst, float(np.abs(compared[0] - compared[1]).max()))
    return worst


def shown(value: float, form: str) -> str:
    """Return a number, or nothing for NaN."""
    return "" if math.isnan(value) else format(value, form)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples and repeats")
    parser.add_argument("--models", nargs="*", default=list(BAYESFLOW), help="which models (default: all)")
    options = parser.parse_args()
    seconds, scale, repeats = (0.1, 1 / 8, 2) if options.quick else (0.5, 1.0, 5)
    rates = floor_rates()
    print("ns a draw:", ", ".join(f"{kind} {ns:.1f}" for kind, ns in rates.items()))
    print(HEADER + "\n|" + "---|" * HEADER.count(" | ") + "---|")
    ratios = []
    for (name, variant), draws in DRAWS.items():
        if name not in options.models:
            continue
        is_first = variant == "bayesflow"
        z = worst_z(name, 5000 if options.quick else 50_000) if is_first and name in REFERENCE else math.nan
        is_ode = name in ("sir", "lotka_volterra")
        error = ode_error(name, 100 if options.quick else 1000) if is_ode and is_first else math.nan
        one, two = speeds(MODELS[name](variant=variant), scale, is_ode, repeats)
        other = theirs(name, seconds, repeats) if is_first else math.nan
        floor = sum(count * rates[kind] for kind, count in draws.items()) * 1e-9
        ratios += [(other / one, other / two)] if other > 0 else []
        cells = [
            name,
            variant,
            shown(z, ".1f"),
            shown(error, ".0e"),
            f"{1e-3 / one:,.0f}",
            f"{1e-3 / two:,.0f}",
            f"{floor * 1e9:,.0f}",
            f"{one / floor:.2f}",
            shown(other * 1e6, ",.0f"),
            shown(other / one, ",.0f"),
            shown(other / two, ",.0f"),
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
    if ratios:
        means = np.exp(np.mean(np.log(ratios), axis=0))
        print(f"\ngeometric means of the ratios: {means[0]:,.0f} on one core, {means[1]:,.0f} on two")


if __name__ == "__main__":
    main()
