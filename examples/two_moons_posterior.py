"""The exact posterior of two moons, and a picture of draws beside it."""

import importlib.util

import numpy as np


def density(theta, observed):
    """Return the posterior density of parameters, up to a constant factor."""
    across, along = theta[..., 0] + theta[..., 1], theta[..., 1] - theta[..., 0]
    right = observed[0] - 0.25 + np.abs(across) / np.sqrt(2)  # of the half circle, whose middle is at 0
    up = observed[1] - along / np.sqrt(2)
    radius = np.hypot(right, up)
    is_possible = (right > 0) & (np.abs(theta) <= 1).all(-1)
    return np.where(is_possible, np.exp(-0.5 * ((radius - 0.1) / 0.01) ** 2) / np.maximum(radius, 1e-9), 0)


def exact_draws(n, observed, rng):
    """Return draws from the posterior, by rejection."""
    kept = np.zeros((0, 2))
    while len(kept) < n:
        theta = rng.uniform(-1, 1, size=(500_000, 2))
        kept = np.concatenate([kept, theta[rng.uniform(0, 12, len(theta)) < density(theta, observed)]])
    return kept[:n]


def compare(draws, observed, file):
    """Print how good draws are, and draw them on the exact density if matplotlib is installed."""
    right = observed[0] - 0.25 + np.abs(draws.sum(-1)) / np.sqrt(2)
    radius = np.hypot(right, observed[1] - (draws[:, 1] - draws[:, 0]) / np.sqrt(2))
    print(f"in the upper moon: {(draws.sum(-1) > 0).mean():.2f} (exact: 0.50)")
    print(f"distance from the middle line: {np.abs(radius - 0.1).mean():.3f} (exact: 0.008)")
    if importlib.util.find_spec("matplotlib") is None:
        return
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 500), np.linspace(-1, 1, 500)), -1)
    figure, (left, other) = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True)
    left.imshow(density(grid, observed), origin="lower", extent=(-1, 1, -1, 1), cmap="Blues")
    left.set(title="exact", xlim=(-0.6, 0.6), ylim=(-0.6, 0.6), xlabel="theta_1", ylabel="theta_2")
    other.plot(*draws[:3000].T, ".", markersize=1.5, alpha=0.5)
    other.set(title="draws", xlabel="theta_1", aspect="equal")
    figure.savefig(file, dpi=100, bbox_inches="tight")
    print("picture:", file)


if __name__ == "__main__":
    compare(exact_draws(3000, np.zeros(2), np.random.default_rng(1)), np.zeros(2), "exact.png")
