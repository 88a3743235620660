"""An epidemic simulated by a program of its own: parameters in as JSON, counts out as JSON, one run for each sample.

The program stands for one in C++, R, Julia or MATLAB; it happens to be written in Python so that it runs everywhere.
"""

import sys
from pathlib import Path

import numpy as np

import dasksim

PROGRAM = """\
import json, random, sys

given = json.load(sys.stdin)
random.seed(given["seed"])
susceptible, infected, counts = 990, 10, []
for day in range(60):
    risk = 1 - (1 - given["contact"] / 1000) ** infected
    new = sum(random.random() < risk for _ in range(susceptible))
    recovered = sum(random.random() < given["recovery"] for _ in range(infected))
    susceptible, infected = susceptible - new, infected + new - recovered
    counts.append(infected)
print(json.dumps({"infected": counts}))
"""

script = Path("epidemic.py")
script.write_text(PROGRAM)


def prior(rng):
    return {"contact": rng.uniform(0.1, 0.8), "recovery": rng.uniform(0.05, 0.3)}


epidemic = dasksim.ExternalProgram(
    [sys.executable, "-S", script], stdin=["contact", "recovery", "seed"], timeout=60, env={"OMP_NUM_THREADS": "1"}
)
simulator = dasksim.make_simulator({"prior": prior, "epidemic": epidemic}, dims={"infected": ["day"]})
print(simulator)

# threads suffice: the work is done in the programs
dataset = dasksim.generate(
    simulator, "epidemics.zarr", 100, seed=2025, sub_batch_size=10, chunk_size=10, scheduler="threads"
).compute()
peak = dataset.infected.max("day")
growth = (dataset.contact / dataset.recovery).isel(scalar=0)
print("\n  contact / recovery   infected at the peak, of 1000")
for low, high in [(0, 1), (1, 2), (2, 4), (4, 8), (8, 16)]:
    chosen = peak.values[(growth.values >= low) & (growth.values < high)]
    if chosen.size:
        print(f"  {low:8} to {high:<8}   {'#' * round(np.mean(chosen) / 20)} {np.mean(chosen):.0f}")
