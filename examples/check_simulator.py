"""Try a simulator before a long run, and see what an audit says of one that cannot be simulated again.

python examples/check_simulator.py
"""

import dasksim

NAMES = {"alpha", "beta", "gamma", "delta"}  # a set: another order in each process


def prior(rng):
    return {"theta": rng.normal(size=2)}


def by_first_name(theta, rng):
    return {"x": rng.normal(theta[0] + ord(next(iter(NAMES))[0]))}


def by_least_name(theta, rng):
    return {"x": rng.normal(theta[0] + ord(min(NAMES)[0]))}


def main():
    """Check both."""
    wrong = dasksim.make_simulator([prior, by_first_name])
    print(dasksim.check(wrong, 20))
    print()
    try:
        dasksim.generate(wrong, "names.zarr", 1000, seed=1)
    except dasksim.IrreproducibleError as error:
        print(f"generate: {error}")
    print()
    right = dasksim.make_simulator([prior, by_least_name])
    dasksim.generate(right, "names.zarr", 1000, seed=1, overwrite=True)
    print(dasksim.status("names.zarr"))


if __name__ == "__main__":
    main()
