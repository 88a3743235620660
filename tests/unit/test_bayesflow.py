"""``to_bayesflow()`` beside BayesFlow itself: the definitions of its notebooks, made by both.

What BayesFlow's simulator returns, ours returns: the same names, shapes and dtypes; and BayesFlow trains on either.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dasksim

os.environ.setdefault("KERAS_BACKEND", "torch")
bf = pytest.importorskip("bayesflow", exc_type=ImportError)

Batch = dict[str, Any]
RNG = np.random.default_rng(2025)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Give BayesFlow's simulators, and the networks, one and the same beginning."""
    np.random.seed(1)


def vector() -> Batch:
    return {"theta": RNG.normal(size=2)}


def scalars() -> Batch:
    return {"mu": RNG.normal(), "sigma": abs(RNG.normal()) + 0.1, "n": RNG.poisson(3), "flag": bool(RNG.random() > 0.5)}


def near(theta: Any) -> Batch:
    return {"x": theta + RNG.normal(size=2)}


def series(mu: float, sigma: float) -> Batch:
    return {"x": RNG.normal(mu, sigma, size=10)}


def batched_prior(batch_shape: Any) -> Batch:
    return {"theta": np.random.normal(size=(*batch_shape, 3)).astype("float32")}


def batched_noise(batch_shape: Any, theta: Any) -> Batch:
    return {"x": theta + np.random.normal(size=theta.shape).astype("float32")}


def size(batch_shape: Any) -> Batch:
    return {"N": np.random.randint(5, 20)}


def regression_prior() -> Batch:
    return {"beta": np.random.normal([2, 0], [3, 1]), "sigma": np.random.gamma(1, 1)}


def regression(beta: Any, sigma: float, N: int) -> Batch:  # noqa: N803
    x = np.random.normal(0, 1, size=N)
    return {"x": x, "y": np.random.normal(beta[0] + beta[1] * x, sigma, size=N)}


def image(theta: Any) -> Batch:
    return {"image": theta[0] * np.outer(np.hanning(8), np.hanning(8))}


def null() -> Batch:
    return {"mu": 0.0}


def alternative() -> Batch:
    return {"mu": np.random.normal()}


def observed(mu: float, N: int) -> Batch:  # noqa: N803
    return {"x": np.random.normal(mu, 1, size=N)}


def single() -> Batch:
    x = RNG.normal(size=2)
    return {"x": x, "y": x.sum()}


# By the kinds of notebooks: how a library makes each of them.
KINDS: dict[str, Callable[[Any], Any]] = {
    "two moons, linear starter: vectors": lambda lib: lib.make_simulator([vector, near]),
    "scalars, integers and booleans": lambda lib: lib.make_simulator([scalars, series]),
    "scalars as they are": lambda lib: lib.make_simulator([scalars, series], expand_outputs=False),
    "one function": lambda lib: lib.make_simulator(single),
    "batched functions": lambda lib: lib.simulators.SequentialSimulator(
        [lib.simulators.LambdaSimulator(f, is_batched=True) for f in (batched_prior, batched_noise)]
    ),
    "images": lambda lib: lib.make_simulator([vector, image]),
    "linear regression: sizes as context": lambda lib: lib.make_simulator([regression_prior, regression], meta_fn=size),
    "a mapping": lambda lib: lib.make_simulator({"first": vector, "second": near}),
    "the t-test: models that share a size": lambda lib: lib.simulators.ModelComparisonSimulator(
        simulators=[lib.make_simulator([null, observed]), lib.make_simulator([alternative, observed])],
        use_mixed_batches=True,
        shared_simulator=size,
    ),
    "models": lambda lib: lib.simulators.ModelComparisonSimulator(
        [lib.make_simulator([scalars, series]), lib.make_simulator([scalars, series])]
    ),
}


class Ours:
    """dasksim by BayesFlow's names."""

    make_simulator = staticmethod(dasksim.make_simulator)
    simulators = dasksim


def form(batch: Batch) -> dict[str, Any]:
    # the size of a context is drawn, so that it differs from call to call
    drawn = {batch["N"]} if "N" in batch and np.ndim(batch["N"]) == 0 else set()
    return {
        name: (["N" if i and n in drawn else n for i, n in enumerate(np.shape(value))], np.asarray(value).dtype)
        for name, value in batch.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 32])
def test_a_batch_has_the_form_of_bayesflows(kind: str, n: int) -> None:
    theirs, ours = KINDS[kind](bf).sample(n), KINDS[kind](Ours).to_bayesflow(seed=1).sample(n)
    assert form(ours) == form(theirs)


def test_the_calls_of_bayesflows_simulators() -> None:
    theirs, ours = bf.make_simulator([scalars, series]), dasksim.make_simulator([scalars, series]).to_bayesflow(seed=1)
    for sim in (theirs, ours):
        accepted = sim.rejection_sample(50, predicate=lambda data: data["mu"][:, 0] > 0, sample_size=100)
        assert (accepted["mu"] > 0).all()
        assert len(sim.sample_batched(64, sample_size=16)["x"]) == 64
        assert sim.sample_parallel((6,), n_jobs=2)["x"].shape == (6, 10)
        assert sim.sample(batch_size=3)["x"].shape == (3, 10)
        assert sim.sample(4, mu=np.arange(4.0))["mu"].tolist() == [[0], [1], [2], [3]]
        prior, likelihood = sim.simulators
        drawn = prior.sample(8)
        assert likelihood.sample(8, **drawn)["x"].shape == (8, 10)
        assert sim.expand_outputs
    assert len(ours.rejection_sample(50, lambda data: data["mu"][:, 0] > 0)["mu"]) == 50
    assert isinstance(ours, bf.simulators.Simulator)


def test_posterior_predictive_of_several_draws() -> None:
    sim = dasksim.make_simulator([vector, near]).to_bayesflow(seed=1)
    draws = np.random.normal(size=(4, 7, 2))
    assert sim.sample((4, 7), theta=draws)["x"].shape == (4, 7, 2)
    with pytest.raises(dasksim.ArgumentError, match=r"call sample\(\(4, 7\), theta=\.\.\.\)"):
        sim.sample(28, theta=draws)


def test_ours_among_theirs_and_theirs_among_ours() -> None:
    prior, both = dasksim.make_simulator(vector).to_bayesflow(seed=1), bf.make_simulator([vector, near])
    assert bf.make_simulator([prior, near]).sample(5)["x"].shape == (5, 2)
    models = [dasksim.make_simulator([scalars, series]).to_bayesflow(seed=k) for k in range(2)]
    mixed = bf.simulators.ModelComparisonSimulator(models, shared_simulator=size).sample(9)
    assert mixed["x"].shape == (9, 10)
    ds = dasksim.make_simulator([both, lambda x: {"y": x.sum()}]).sample(6, seed=1).compute()
    assert np.allclose(ds.y.values.ravel(), ds.x.values.sum(1))
    again = dasksim.make_simulator([both, lambda x: {"y": x.sum()}]).sample(6, seed=1).compute()
    assert ds.identical(again)
    assert dasksim.make_simulator([prior, near]).sample(3, seed=1).x.shape == (3, 2)


def test_members_draw_what_nobody_else_does() -> None:
    sim = dasksim.make_simulator([vector, near]).to_bayesflow(seed=1)
    assert sim.simulators[0] is sim.simulators[0]
    draws = [sim.sample(4)["theta"], sim.simulators[0].sample(4)["theta"], sim.simulators[0].sample(4)["theta"]]
    assert len(np.unique(np.concatenate(draws)[:, 0])) == 12


def workflow(simulator: Any) -> Any:
    return bf.BasicWorkflow(
        simulator=simulator,
        inference_network=bf.networks.CouplingFlow(depth=1, subnet_kwargs={"widths": (8,)}),
        inference_variables=["theta"],
        inference_conditions=["x"],
    )


def test_training_online_offline_and_what_follows_it() -> None:
    sim = dasksim.make_simulator([vector, near])
    flow = workflow(sim.to_bayesflow(seed=1))
    flow.fit_online(epochs=1, num_batches_per_epoch=2, batch_size=8, validation_data=8, verbose=0)
    data = sim.sample(64, seed=1).dasksim.to_dict()
    flow.fit_offline(data, epochs=1, batch_size=16, verbose=0)
    draws = flow.sample(num_samples=5, conditions={"x": data["x"][:3]})
    assert draws["theta"].shape == (3, 5, 2)
    predicted = sim.sample((3, 5), seed=2, theta=draws["theta"]).dasksim.to_dict()
    assert predicted["x"].shape == (3, 5, 2)
    flow.compute_default_diagnostics(test_data=10)


def test_two_simulators_in_one_approximator() -> None:
    """Batches of both, one after the other, as multi-fidelity and robust training have them."""
    sims = [dasksim.make_simulator([vector, near]).to_bayesflow(seed=k) for k in range(2)]
    flow = workflow(None)
    batches = [sim.sample(16) for sim in sims]
    data = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    flow.fit_offline(data, epochs=1, batch_size=8, verbose=0)


def test_what_a_dataset_says_where_it_is_not_taken() -> None:
    """Pages quote these, so that they are found: none of them is dasksim's."""
    sim = dasksim.make_simulator([vector, near])
    ds = sim.sample(16, seed=1)
    with pytest.raises(AttributeError, match="'Dataset' object has no attribute 'pop'"):
        workflow(sim).fit_online(epochs=1, num_batches_per_epoch=1, batch_size=8, verbose=0)
    with pytest.raises(ValueError, match="without explicit dimension names"):
        bf.Adapter().to_array()(ds)
    with pytest.raises(AttributeError, match="'DataArray' object has no attribute 'reshape'"):
        ds["theta"].reshape(-1)
    workflow(sim).fit_offline(ds.dasksim.to_dict(), epochs=1, batch_size=8, verbose=0)
