"""What variants and options of the models change, and what shortcuts must not."""

import inspect
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from dasksim import ArgumentError, Simulator
from dasksim.models import (
    bernoulli_glm,
    bernoulli_glm_raw,
    gaussian_linear,
    gaussian_linear_uniform,
    gaussian_mixture,
    inverse_kinematics,
    lotka_volterra,
    sir,
    slcp,
    slcp_distractors,
    two_moons,
)
from dasksim.models._draws import normal

Array = NDArray[Any]

# A right model with another seed has a deviation of more standard errors in 6.8e-6 of all cases, of a few hundred here,
# or a smaller p value in 1e-5, of some hundred.
LARGEST_Z = 4.5
SMALLEST_P = 1e-5


def observed(simulator: Simulator, n: int, parameters: Any = None, **conditions: Any) -> Array:
    """Return the observables of n samples, all with the parameters if there are some."""
    if parameters is not None:
        conditions["parameters"] = np.tile(np.asarray(parameters, dtype="float32"), (n, 1))
    return np.asarray(simulator.sample(n, seed=7, **conditions).observables.values, dtype="float64")


def assert_same_distribution(x: Array, y: Array) -> None:
    """Compare projections of two sets of rows, and their norms, by two-sample Kolmogorov-Smirnov tests."""
    directions = np.random.default_rng(1).standard_normal((x.shape[1], 20))
    centre, scale = y.mean(0), y.std(0) + 1e-12
    x, y = (x - centre) / scale, (y - centre) / scale
    pairs = [*zip((x @ directions).T, (y @ directions).T, strict=True), ((x**2).sum(1), (y**2).sum(1))]
    pairs += [(np.abs(x[:, 0] * x[:, i]), np.abs(y[:, 0] * y[:, i])) for i in range(1, x.shape[1])][:10]

    assert min(stats.ks_2samp(*pair).pvalue for pair in pairs) > SMALLEST_P


# Bernoulli GLM

WEIGHTS = [0.5, 1.0, -0.8, 0.6, 0.3, -1.2, 0.0, 0.4, 0.9, -0.2]


@pytest.mark.parametrize("parameters", [WEIGHTS, [-2.0, *[0.0] * 9], [0.3, *[40.0] * 9]], ids=["some", "none", "large"])
def test_the_glm_s_statistics_have_the_joint_distribution_of_the_direct_form(parameters: list[float]) -> None:
    """The stimulus is split into its part along the weights and the rest, of which only the sum is drawn."""
    n, n_times = 40_000, 20
    direct = np.empty((n, 10))
    rng = np.random.default_rng(1)
    for first in range(0, n, 1000):
        v = rng.standard_normal((1000, n_times, 9))
        p = 1 / (1 + np.exp(-np.clip(v @ parameters[1:] + parameters[0], -700, 700)))
        z = (rng.random(p.shape) < p).astype(float)
        direct[first : first + 1000] = np.c_[z.sum(1), (z[..., None] * v).sum(1)] / n_times

    shortcut = observed(bernoulli_glm(T=n_times), n, parameters)

    assert_same_distribution(shortcut, direct)
    covariance = np.cov(shortcut.T) - np.cov(direct.T)
    spread = np.sqrt(np.outer(direct.var(0), direct.var(0)) * 2 / n) * 1.5
    assert (np.abs(covariance) < LARGEST_Z * spread).all()


def test_the_raw_glm_has_the_statistics_of_the_other() -> None:
    raw = observed(bernoulli_glm_raw(T=20), 20_000, WEIGHTS)
    z, v = raw[..., 0], raw[..., 1:]

    assert set(np.unique(z)) == {0.0, 1.0}
    assert_same_distribution(
        np.c_[z.sum(1), (z[..., None] * v).sum(1)], observed(bernoulli_glm(20, False), 20_000, WEIGHTS)
    )


#: The first observation of sbibm 1.1.0, raw and by its statistics.
RAW_OBSERVATION = "1101111111100000011111110001110111100000111100001110001111001100011111001110000000111000111110000111"
OBSERVATION = [56.0, 3.32306, 14.356438, 11.104893, -4.167525, -18.507809, -21.917496, -9.553517, -0.357257, -5.497825]


def test_the_glm_of_sbibm_has_its_fixed_design() -> None:
    observe = bernoulli_glm(variant="sbibm").lower().stages[1].functions[0].function
    design = inspect.getclosurevars(observe).nonlocals["design"]

    responses = np.array(list(RAW_OBSERVATION), dtype="float64")

    np.testing.assert_allclose(responses @ design, OBSERVATION, rtol=1e-5)


def test_the_glm_of_sbibm_responds_with_its_probabilities() -> None:
    design = np.ones((100, 10))
    stimulus = np.random.RandomState(42).randn(100)
    for lag in range(9):
        design[:, 1 + lag] = np.r_[np.zeros(lag), stimulus][:100]
    p = 1 / (1 + np.exp(-design @ WEIGHTS))
    n = 40_000

    raw = observed(bernoulli_glm_raw(variant="sbibm"), n, WEIGHTS)
    sums = observed(bernoulli_glm(variant="sbibm"), n, WEIGHTS)

    assert raw.shape == (n, 100)
    assert (np.abs(raw.mean(0) - p) < LARGEST_Z * np.sqrt(p * (1 - p) / n) + 1e-9).all()
    variance = (design**2).T @ (p * (1 - p))
    assert (np.abs(sums.mean(0) - design.T @ p) < LARGEST_Z * np.sqrt(variance / n)).all()
    assert_same_distribution(sums, raw @ design)


@pytest.mark.parametrize(("variant", "spread"), [("bayesflow", 2.0), ("sbibm", math.sqrt(2))])
def test_the_glm_s_prior_has_its_covariance(variant: str, spread: float) -> None:
    differences = np.diag(1 + np.sqrt(np.arange(9) / 9)) - 2 * np.eye(9, k=-1) + np.eye(9, k=-2)
    covariance = np.zeros((10, 10))
    covariance[0, 0], covariance[1:, 1:] = spread**2, np.linalg.inv(differences.T @ differences)
    n = 100_000

    parameters = bernoulli_glm(variant=variant).sample(n, seed=1).parameters.values.astype("float64")  # type: ignore[arg-type]

    variances = np.outer(covariance.diagonal(), covariance.diagonal()) + covariance**2
    assert (np.abs(parameters.T @ parameters / n - covariance) < LARGEST_Z * np.sqrt(variances / n)).all()


def test_the_glm_s_statistics_are_scaled_as_asked() -> None:
    scaled, sums = (bernoulli_glm(T=50, scale_by_T=is_scaled) for is_scaled in (True, False))
    fixed = bernoulli_glm(T=50, scale_by_T=True, variant="sbibm")

    np.testing.assert_allclose(50 * observed(scaled, 100), observed(sums, 100), rtol=1e-5, atol=1e-5)
    assert 1 >= observed(fixed, 100)[:, 0].max() > 0.5


# Gaussians


@pytest.mark.parametrize("model", [gaussian_linear, gaussian_linear_uniform])
@pytest.mark.parametrize(
    ("options", "spread"),
    [({}, 0.1), ({"variant": "sbibm"}, math.sqrt(0.1)), ({"obs_scale": 3.0}, 3.0), ({"n_obs": 5}, 0.1)],
)
def test_a_linear_gaussian_s_noise_has_its_standard_deviation(model: Any, options: Any, spread: float) -> None:
    dataset = model(D=4, **options).sample(20_000, seed=1)
    noise = dataset.observables.values - dataset.parameters.values.reshape(20_000, *[1] * ("n_obs" in options), 4)

    assert noise.shape[1:] == ((5, 4) if "n_obs" in options else (4,))
    assert abs(noise.std() / spread - 1) < LARGEST_Z / math.sqrt(2 * noise.size)
    assert np.abs(np.corrcoef(noise.reshape(20_000, -1), rowvar=False) - np.eye(noise[0].size)).max() < 0.05


@pytest.mark.parametrize(
    ("options", "spread"), [({}, 0.1), ({"variant": "sbibm"}, math.sqrt(0.1)), ({"prior_scale": 2}, 2)]
)
def test_a_linear_gaussian_s_prior_has_its_standard_deviation(options: Any, spread: float) -> None:
    parameters = gaussian_linear(**options).sample(20_000, seed=1).parameters.values

    assert abs(parameters.std() / spread - 1) < LARGEST_Z / math.sqrt(2 * parameters.size)


def test_prob_is_the_probability_of_the_second_component() -> None:
    dataset = gaussian_mixture(prob=0.9, scale_c1=1000.0, scale_c2=1e-3).sample(10_000, seed=1)

    is_second = (np.abs(dataset.observables.values - dataset.parameters.values) < 0.1).all(axis=1)

    assert abs(is_second.mean() - 0.9) < LARGEST_Z * 0.3 / 100


@pytest.mark.parametrize(("prob", "spread"), [(0.0, 1.0), (1.0, 0.1)])
def test_each_component_has_its_standard_deviation(prob: float, spread: float) -> None:
    x = observed(gaussian_mixture(prob=prob), 40_000, [0, 0])

    assert abs(x.std() / spread - 1) < LARGEST_Z / math.sqrt(2 * x.size)


# SLCP


@pytest.mark.parametrize(("variant", "epsilon"), [("bayesflow", 0.0), ("sbibm", 1e-6)])
@pytest.mark.parametrize("parameters", [[0.7, -2.9, -1.0, -0.9, 0.6], [1, 2, 0.1, 2.5, -3], [0.5, -1, 0, 0, 0.4]])
def test_slcp_has_its_mean_and_covariance(variant: Any, epsilon: float, parameters: list[float]) -> None:
    n = 40_000
    s = np.array(parameters[2:4]) ** 2
    rho = math.tanh(parameters[4])
    covariance = np.outer(s, s) * [[1, rho], [rho, 1]] + epsilon * np.eye(2)

    x = observed(slcp(variant=variant, flatten=False), n, parameters)

    deviations = (x - parameters[:2]).reshape(-1, 2)
    error = np.sqrt((np.outer(covariance.diagonal(), covariance.diagonal()) + covariance**2) / (4 * n))
    assert x.shape == (n, 4, 2)
    assert (np.abs(deviations.T @ deviations / (4 * n) - covariance) <= LARGEST_Z * error + 1e-11).all()
    assert (np.abs(deviations.mean(0)) <= LARGEST_Z * np.sqrt(covariance.diagonal() / (4 * n)) + 1e-6).all()
    assert abs(np.mean(x[:, 0, 0] * x[:, 1, 0]) - x[:, 0, 0].mean() * x[:, 1, 0].mean()) < 0.05 * max(s[0], 0.01)


def test_distractors_are_pairs_around_twenty_locations_of_each_sample() -> None:
    """Pairs of one component are near each other, and locations are those of no other sample."""
    x = slcp_distractors(n_dist=46, shape_scale=1e-8, flatten=False).sample(4000, seed=1).observables.values
    rounded = np.round(x[:, 4:].astype("float64"), 1)

    n_locations = np.array([len(np.unique(row, axis=0)) for row in rounded])
    expected = 20 * (1 - 0.95**46)

    assert abs(n_locations.mean() - expected) < 0.3
    assert abs(x[:, 4:].std() / 15 - 1) < 0.02
    assert np.abs(np.corrcoef(x[:, 4:, 0].mean(1), x[:, 4:, 1].mean(1))[0, 1]) < LARGEST_Z / math.sqrt(4000)


def test_distractors_are_of_student_with_two_degrees_of_freedom() -> None:
    x = slcp_distractors(mu_scale=0.0, flatten=False).sample(4000, seed=1).observables.values[:, 4:] / 0.1

    squared_radius = (x[:, 0].astype("float64") ** 2).sum(-1) / 2  # F distributed, with 2 and 2 degrees of freedom
    assert stats.kstest(squared_radius, stats.f(2, 2).cdf).pvalue > SMALLEST_P
    assert stats.kstest(x[:, 0, 0].astype("float64"), stats.t(2).cdf).pvalue > SMALLEST_P


#: Where the informative columns are in the files of sbibm 1.1.0, and some of its constants.
COLUMNS = [22, 33, 23, 67, 42, 21, 16, 90]
LOCATION = [7.4507123, -2.07396452, 9.71532807]
SCALE = [[-1.39593137, 0.52142307], [2.44653206, 2.19635089]]


def test_the_distractors_of_sbibm_are_those_of_its_files() -> None:
    observe = slcp_distractors(variant="sbibm").lower().stages[1].functions[0].function
    constants = inspect.getclosurevars(observe).nonlocals

    np.testing.assert_allclose(constants["location"][0, :3], LOCATION, rtol=1e-6)
    np.testing.assert_allclose([constants["scale"][0, 1, :2], constants["scale"][19, 91, 90:]], SCALE, rtol=1e-6)

    x = observed(slcp_distractors(variant="sbibm"), 50, [1.5, -2.5, 0, 0, 0])
    places = [int(np.flatnonzero(constants["columns"] == i)[0]) for i in range(8)]
    assert places == COLUMNS
    np.testing.assert_allclose(x[:, places], np.tile([1.5, -2.5], (50, 4)), atol=6e-3)


def test_the_distractors_of_sbibm_are_one_draw_of_a_mixture() -> None:
    observe = slcp_distractors(variant="sbibm").lower().stages[1].functions[0].function
    constants = inspect.getclosurevars(observe).nonlocals
    rng = np.random.default_rng(1)
    n = 10_000
    expected = np.empty((n, 92))
    for i, k in enumerate(rng.integers(20, size=n)):
        t = rng.standard_normal(92) / math.sqrt(rng.chisquare(2) / 2)
        expected[i] = constants["location"][k] + constants["scale"][k].astype("float64") @ t

    x = observed(slcp_distractors(variant="sbibm"), n)
    distractors = x[:, np.argsort(constants["columns"])[8:]]

    directions = np.random.default_rng(2).standard_normal((92, 30)) * (np.random.default_rng(3).random((92, 30)) < 0.1)
    pairs = zip((distractors @ directions).T, (expected @ directions).T, strict=True)
    assert min(stats.ks_2samp(*pair).pvalue for pair in pairs) > SMALLEST_P


def test_each_sample_has_the_distractors_of_its_own_component() -> None:
    observe = slcp_distractors(variant="sbibm").lower().stages[1].functions[0].function
    constants = inspect.getclosurevars(observe).nonlocals
    n, again = 50, np.random.default_rng(1)
    x = observe(np.zeros((n, 5), "float32"), (n,), np.random.default_rng(1), np)["observables"]

    normal((2, n, 4), again, np)
    component = again.integers(0, 20, size=n)
    z = normal((n, 92), again, np) / np.sqrt(again.standard_exponential((n, 1)))

    expected = constants["location"][component] + np.einsum("nij,nj->ni", constants["scale"][component], z)
    np.testing.assert_allclose(x[:, np.argsort(constants["columns"])[8:]], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("option", [{"n_obs": 3}, {"n_dist": 2}, {"mu_scale": 1.0}, {"flatten": False}])
def test_the_fixed_distractors_take_no_options(option: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=r"has fixed distractors; leave out n_obs, n_dist"):
        slcp_distractors(variant="sbibm", **option)


# SIR and Lotka-Volterra


@pytest.mark.parametrize(
    ("model", "mean", "spread"),
    [(sir, np.log([0.4, 0.125]), [0.5, 0.2]), (lotka_volterra, [-0.125, -3, -0.125, -3], [0.5] * 4)],
)
def test_priors_of_rates_are_log_normal(model: Any, mean: Any, spread: Any) -> None:
    n = 200_000
    z = (np.log(model().sample(n, seed=1)[["parameters"]].parameters.values.astype("float64")) - mean) / spread

    assert (np.abs(z.mean(0)) < LARGEST_Z / math.sqrt(n)).all()
    assert (np.abs(z.std(0) - 1) < LARGEST_Z / math.sqrt(2 * n)).all()
    assert stats.kstest(z.ravel(), "norm").pvalue > SMALLEST_P


@pytest.mark.parametrize(
    ("subsample", "days"), [("original", range(0, 160, 17)), (7, range(0, 154, 22)), (160, range(160)), (1, [0])]
)
def test_sir_returns_as_many_days_as_asked_for(subsample: Any, days: Any) -> None:
    """B31: an integer gave another number of points."""
    dataset = sir(subsample=subsample).sample(2, seed=1)

    assert dataset.observables.dims == ("batch", "time")
    assert dataset.time.values.tolist() == list(days)


def test_sir_returns_all_days_with_an_axis_of_one() -> None:
    assert dict(sir(T=30, subsample=None).sample(2, seed=1).observables.sizes) == {
        "batch": 2,
        "time": 30,
        "population": 1,
    }


@pytest.mark.parametrize(
    ("subsample", "n"), [("original", 10), (20, 20), (10, 10), (40, 40), (201, 201), (None, 201), (7, 7)]
)
def test_lotka_volterra_returns_as_many_times_as_asked_for(subsample: Any, n: int) -> None:
    """B31: an integer gave 20 times as many points, or an error."""
    flat = lotka_volterra(subsample=subsample).sample(2, seed=1).observables
    pairs = lotka_volterra(subsample=subsample, flatten=False).sample(2, seed=1).observables

    assert flat.sizes["observable"] == 2 * n
    assert pairs.dims == ("batch", "time", "population")
    assert (
        pairs.time.values.tolist()
        == [round(0.1 * i, 12) for i in range(0, 201, 21 if subsample == "original" else 201 // n)][:n]
    )
    np.testing.assert_array_equal(flat.values[:, :n], pairs.values[..., 0])
    np.testing.assert_array_equal(flat.values[:, n:], pairs.values[..., 1])


@pytest.mark.parametrize("subsample", [0, 202, "all", 2.5, True])
@pytest.mark.parametrize("model", [sir, lotka_volterra])
def test_an_impossible_subsample_is_refused(model: Any, subsample: Any) -> None:
    with pytest.raises(ArgumentError, match=r"subsample must be 'original', None or a number of points from 1 to"):
        model(subsample=subsample)


def test_sir_s_counts_are_binomial() -> None:
    """Without contact, a tenth of the population is infected and recovers at the given rate."""
    n = 40_000
    p = 0.1 * np.exp(-0.02 * np.array([0, 5, 10]))

    counts = observed(sir(I0=1e5, T=15, subsample=3, total_count=200, scale_by_total=False), n, [0, 0.02])

    assert (counts == np.round(counts)).all()
    assert (np.abs(counts.mean(0) - 200 * p) < LARGEST_Z * np.sqrt(200 * p * (1 - p) / n)).all()
    assert (np.abs(counts.var(0) / (200 * p * (1 - p)) - 1) < LARGEST_Z * math.sqrt(2.1 / n)).all()


def test_the_counts_of_sbibm_are_the_fractions_of_bayesflow() -> None:
    np.testing.assert_allclose(observed(sir(variant="sbibm"), 100), 1000 * observed(sir(), 100), rtol=1e-6)


@pytest.mark.parametrize("parameters", [[0, 0], [0, 0.1], [0.5, 0], [1000, 0.1], [0.3, 50]])
def test_sir_takes_any_rates(parameters: list[float]) -> None:
    x = observed(sir(), 4, parameters)

    assert ((x >= 0) & (x <= 1)).all()


@pytest.mark.parametrize("parameters", [[0, 0, 0, 0], [60, 0.01, 1, 0.01], [1, 10, 30, 1e-6], [0.1, 1e-8, 0.1, 10]])
def test_lotka_volterra_clips_extreme_populations(parameters: list[float]) -> None:
    x = observed(lotka_volterra(obs_noise=0.0), 4, parameters)

    assert ((x >= 0.9999e-10) & (x <= 1.0001e4)).all()


def test_lotka_volterra_s_noise_is_log_normal() -> None:
    noise = np.log(observed(lotka_volterra(obs_noise=0.3), 10_000, [0, 0, 0, 0]) / np.repeat([30, 1], 10))

    assert abs(noise.std() / 0.3 - 1) < LARGEST_Z / math.sqrt(2 * noise.size)
    assert abs(noise.mean()) < LARGEST_Z * 0.3 / math.sqrt(noise.size)


# Others


def test_inverse_kinematics_is_exact() -> None:
    x = observed(inverse_kinematics(l1=1, l2=2, l3=3), 2, [0.25, math.pi / 2, -math.pi / 2, math.pi / 2])

    np.testing.assert_allclose(x, [[0.25 + 1 + 0 + 3, 0 + 2 + 0]] * 2, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (gaussian_linear, {"D": 0}, r"D must be >= 1; got 0"),
        (gaussian_linear_uniform, {"n_obs": 0}, r"n_obs must be >= 1; got 0"),
        (gaussian_mixture, {"prob": 1.5}, r"prob must be from 0 to 1; got 1.5"),
        (slcp, {"n_obs": 0}, r"n_obs must be >= 1; got 0"),
        (slcp_distractors, {"n_dist": 0}, r"n_dist must be >= 1; got 0"),
        (bernoulli_glm, {"T": 0}, r"T must be >= 1; got 0"),
        (bernoulli_glm_raw, {"T": 0}, r"T must be >= 1; got 0"),
        (sir, {"I0": 2e6}, r"I0 and R0 must be >= 0 and at most N > 0 together; got 2000000.0, 0.0 and 1000000.0"),
        (lotka_volterra, {"dt": 0}, r"T and dt > 0; got 30, 1, 0.1, 20 and 0"),
        (inverse_kinematics, {"scales": [1, 2]}, r"scales must be 4 numbers, one for each parameter; got \[1, 2\]"),
        (two_moons, {"variant": "sbi"}, r"variant must be one of 'bayesflow', 'sbibm'; got 'sbi'"),
    ],
)
def test_options_that_make_no_model_are_refused(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        model(**options)
