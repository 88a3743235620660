"""Samples that fail: masked exactly, drawn again without bias, and the same however the dataset is cut up and run."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import bits, prefix_of, receipt_files
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from streams import generator_of, seeds_of
from variants import examples, quick, quick_where
from zoo.classes import KINDS, Kind, late
from zoo.failing import (
    CUT,
    FAILING,
    MASK,
    POLICIES,
    REDRAW,
    Rng,
    chain,
    comparison,
    fail_above,
    failing,
    made,
    mixed_chain,
    prior,
    simulated,
    with_contexts,
)

import dasksim
from dasksim import (
    ArgumentError,
    ModelComparisonSimulator,
    OutputError,
    RejectionSimulator,
    Simulator,
    SimulatorError,
    StoreMismatchError,
    make_simulator,
    status,
)
from dasksim._streams.addresses import PROBE_SUB_BATCH

# Simulators of which samples fail, one of each class.


WHERE_NOTHING_FAILS = {"mask": MASK, "redraw": REDRAW, "raise": {"on_nonfinite": "raise"}}


def is_quick(name: str, policy: str) -> bool:
    return policy == "mask" or name in ("rejection_by_rows", "mixed", "with_shared", "graph")


@pytest.mark.parametrize(("name", "policy_name"), quick_where(is_quick, itertools.product(KINDS, WHERE_NOTHING_FAILS)))
def test_policy_changes_no_bit_where_nothing_fails(name: str, policy_name: str, tmp_path: Path) -> None:
    kind, policy = KINDS[name], WHERE_NOTHING_FAILS[policy_name]
    shape = (21, *kind.further)
    if policy is REDRAW and kind is KINDS["with_shared"]:
        with pytest.raises(ArgumentError, match="contexts and samples at once"):
            made(kind.make(), tmp_path / "s.zarr", shape, **policy)
        return
    found = bits(made(kind.make(), tmp_path / "s.zarr", shape, **policy), scheduler="synchronous")
    valid = found.pop("valid", None)
    assert found == bits(kind.sample(21, seed=1, **CUT), scheduler="synchronous")
    if policy is MASK:
        assert valid == (("batch",), "|b1", (21,), b"\1" * 21)
    assert status(tmp_path / "s.zarr").failures == ()


@POLICIES
def test_function_that_draws_globally_after_one_that_is_known_to_is_noticed(policy: dict[str, str]) -> None:
    """One of the two is seeded under the lock while the other is not known to need it."""
    simulator = make_simulator([lambda: {"a": np.random.normal()}, late])
    found = []
    for seed in (1, 2):
        np.random.seed(seed)
        found.append(bits(simulated(simulator, 200, **policy)))
        assert np.random.uniform() == np.random.RandomState(seed).uniform()
    wanted = bits(simulator.sample(200, seed=1, **CUT), scheduler="synchronous")
    assert found[0] == found[1]
    assert {name: found[0][name] for name in wanted} == wanted


@failing
@POLICIES
def test_smaller_dataset_is_prefix_of_larger_where_samples_fail(
    kind: Kind, policy: dict[str, str], tmp_path: Path
) -> None:
    larger = simulated(kind.make(), (40, *kind.further), **policy)
    assert larger.attrs["failures"]
    for n in (8, 19):
        assert bits(simulated(kind.make(), (n, *kind.further), **policy)) == prefix_of(larger, n)
    found = made(kind.make(), tmp_path / "s.zarr", (40, *kind.further), chunk_size=40, scheduler="threads", **policy)
    assert bits(found) == bits(larger)


@pytest.mark.parametrize("name", quick(FAILING, "chain", "with_contexts", "rejection", "hierarchy"))
@POLICIES
def test_workers_of_a_cluster_change_no_bit_where_samples_fail(
    name: str, policy: dict[str, str], two_workers: Client, tmp_path: Path
) -> None:
    kind = FAILING[name]
    found = made(kind.make(), tmp_path / "s.zarr", (37, *kind.further), scheduler=two_workers, **policy)
    assert bits(found, scheduler="synchronous") == bits(simulated(kind.make(), (37, *kind.further), **policy))


@pytest.mark.parametrize("policy", [MASK, pytest.param(REDRAW, marks=pytest.mark.slow)], ids=["mask", "redraw"])
@pytest.mark.usefixtures("one_process")
def test_worker_processes_parts_resume_and_extension_change_no_bit(policy: dict[str, str], tmp_path: Path) -> None:
    wanted, ones = bits(simulated(chain(), 60, **policy)), made(chain(), tmp_path / "s.zarr", 60, **policy)
    processes = made(chain(), tmp_path / "p.zarr", 60, scheduler="processes", **policy)
    assert bits(processes) == bits(ones) == wanted

    for i in (1, 0):
        made(chain(), tmp_path / "parts.zarr", 60, part=(i, 2), **policy)
    assert bits(dasksim.open_dataset(tmp_path / "parts.zarr")) == wanted
    receipt_files(tmp_path / "parts.zarr")[1].unlink()
    assert bits(made(chain(), tmp_path / "parts.zarr", 60, **policy)) == wanted

    made(chain(), tmp_path / "short.zarr", 35, **policy)
    longer = dasksim.extend(tmp_path / "short.zarr", chain(), 60, scheduler="synchronous")
    assert bits(longer) == wanted
    failures = [status(tmp_path / f"{name}.zarr").failures for name in ("s", "p", "parts", "short")]
    assert failures == [failures[0]] * 4
    assert dasksim.verify(tmp_path / "short.zarr", chain(), resimulate=4).is_good


@dataclass(frozen=True)
class Recipe:
    """A chain of three stages; one of them fails above a threshold, in one of two ways."""

    are_batched: tuple[bool, bool, bool]
    fails_at: int
    threshold: float
    is_nonfinite: bool
    has_context: bool

    def simulator(self) -> Simulator:
        stages = {"first": self._stage(0), "second": self._stage(1), "third": self._stage(2)}
        options = {name: {"is_batched": b} for name, b in zip(stages, self.are_batched, strict=True)}
        meta = (lambda rng: {"level": float(rng.uniform())}) if self.has_context else None
        return make_simulator(stages, meta_fn=meta, obj_kwargs=options)

    def _stage(self, k: int) -> Callable[..., Any]:
        def value(shift: Any, axes: tuple[int, ...], rng: Any) -> dict[str, Any]:
            drawn = shift + rng.normal(size=axes)
            if self.fails_at == k and self.is_nonfinite:
                drawn = np.where(drawn > self.threshold, np.inf, drawn)
            elif self.fails_at == k:
                fail_above(drawn, self.threshold + 3 * (axes != ()))
            return {"abc"[k]: drawn, "uvw"[k]: (10 * np.nan_to_num(drawn, posinf=0, neginf=0)).astype("int64")}

        functions: dict[tuple[int, bool], Callable[..., Any]] = {
            (0, False): lambda rng: value(0, (), rng),
            (0, True): lambda batch_shape, rng: value(0, batch_shape, rng),
            (1, False): lambda a: value(a, (), np.random),
            (1, True): lambda batch_shape, a: value(a, batch_shape, np.random),
            (2, False): lambda a, b, rng, level=0.0: value(a - b + level, (), rng),
            (2, True): lambda batch_shape, a, b, rng, level=0.0: value(a - b + level, batch_shape, rng),
        }
        return functions[k, self.are_batched[k]]


recipes = st.builds(
    Recipe,
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.integers(0, 2),
    st.sampled_from([0.0, 0.5, 1.5]),
    st.booleans(),
    st.booleans(),
)


@examples(40)
@given(recipes, st.sampled_from([MASK, REDRAW]), st.integers(1, 9), st.integers(1, 3), st.integers(0, 20), st.data())
def test_cuts_change_no_bit_where_samples_fail(
    recipe: Recipe, policy: dict[str, str], size: int, sub_batches: int, more: int, data: st.DataObject
) -> None:
    n = data.draw(st.integers(size, 30))
    options: dict[str, Any] = {"sub_batch_size": size, "seed": 5, **policy}
    larger = simulated(recipe.simulator(), n + more, chunk_size=10_000 * size, **options)
    smaller = simulated(recipe.simulator(), n, chunk_size=size * sub_batches, **options)
    assert bits(smaller) == prefix_of(larger, n)
    assert all(failure.sample < n for failure in smaller.attrs["failures"])
    if policy is REDRAW:
        assert all(np.isfinite(array).all() for array in smaller.data_vars.values())
    else:
        # what stages before the one that failed have made is kept
        for k, name in enumerate("abc"):
            assert (np.isfinite(smaller[name]) == (smaller.valid | (k < recipe.fails_at))).all()


def masked_chain(n: int) -> tuple[dict[str, list[Any]], list[bool]]:
    """Simulate :func:`chain` in plain NumPy."""
    values: dict[str, list[Any]] = {"theta": [], "x": [], "n": [], "c": []}
    valid = []
    for sample in range(n):
        row: dict[str, Any] = {"theta": np.nan, "x": [np.nan] * 2, "n": 0, "c": np.nan}
        # where the second stage fails, what the first has made stays
        rng = generator_of("likelihood", sample)
        theta = generator_of("prior", sample).normal()
        x = theta + rng.normal(size=2)
        if theta <= 1.0:
            row["theta"] = theta
        is_valid = bool(theta <= 1.0 and (x <= 2.0).all() and x[0] > -1.5)
        if is_valid:
            row = {"theta": theta, "x": x, "n": int(rng.integers(9)), "c": complex(theta, 1)}
        valid.append(is_valid)
        for name, value in row.items():
            values[name].append(value)
    return values, valid


def test_exactly_the_samples_that_fail_are_masked(tmp_path: Path) -> None:
    found = made(chain(), tmp_path / "s.zarr", 100, **MASK).compute()
    values, valid = masked_chain(100)
    assert found.valid.dims == ("batch",)
    assert found.valid.dtype == bool
    np.testing.assert_array_equal(found.valid, valid)
    for name, wanted in values.items():
        np.testing.assert_array_equal(found[name].values.reshape(100, -1), np.reshape(wanted, (100, -1)))
    assert found.c.dtype == complex
    assert np.isnan(found.c.values[~found.valid.values]).all()
    assert status(tmp_path / "s.zarr").n_failed == 100 - sum(valid)


def test_conditions_and_contexts_of_masked_samples_stay(tmp_path: Path) -> None:
    theta = np.linspace(-2, 2, 20)

    def observe(theta: float, level: int) -> dict[str, Any]:
        fail_above(theta, 0.0)
        return {"x": theta * level}

    simulator = make_simulator([prior, observe], meta_fn=lambda rng: {"level": int(rng.integers(1, 99))})
    found = made(simulator, tmp_path / "s.zarr", 20, conditions={"theta": theta}, on_error="mask").compute()
    np.testing.assert_array_equal(found.theta.values.ravel(), theta)
    np.testing.assert_array_equal(found.valid, theta <= 0)
    assert (found.level > 0).all()
    assert len(set(found.level.values[:8].ravel())) == 1


def test_batched_stage_that_raises_masks_its_whole_sub_batch(tmp_path: Path) -> None:
    def wide(batch_shape: tuple[int, ...], rng: Rng) -> dict[str, Any]:
        x = rng.normal(size=batch_shape)
        fail_above(x, 2.0)
        return {"x": x}

    found = made(make_simulator(wide, is_batched=True), tmp_path / "s.zarr", 75, on_error="mask").compute()
    by_sub_batch = [found.valid.values[i : i + 8] for i in range(0, 75, 8)]
    assert all(part.all() or not part.any() for part in by_sub_batch)
    assert 0 < found.valid.sum() < 75
    np.testing.assert_array_equal(found.valid, np.isfinite(found.x))


def test_stages_after_one_that_failed_for_all_are_not_called(tmp_path: Path) -> None:
    def fail(seed: int) -> dict[str, Any]:
        fail_above(float(seed not in probed), 0.5)
        return {"theta": 1.0}

    def after(batch_shape: tuple[int, ...], theta: Any) -> dict[str, Any]:
        calls.append(batch_shape)
        return {"x": theta}

    calls: list[tuple[int, ...]] = []
    probed = set(seeds_of("fail", range(2), seed=0, sub_batch=PROBE_SUB_BATCH))
    options = {"fail": {}, "after": {"is_batched": True}}
    simulator = make_simulator({"fail": fail, "after": after}, obj_kwargs=options)
    found = made(simulator, tmp_path / "s.zarr", 16, on_error="mask").compute()
    assert not found.valid.any()
    assert set(calls) == {(2,)}  # the probe's


def test_sample_that_is_not_finite_goes_to_no_later_stage(tmp_path: Path) -> None:
    def first(rng: Rng) -> dict[str, Any]:
        return {"a": np.log(np.maximum(rng.normal(), 0.0) or np.nan)}

    def second(a: float) -> dict[str, Any]:
        if not np.isfinite(a):
            raise RuntimeError
        return {"b": a}

    found = made(make_simulator([first, second]), tmp_path / "s.zarr", 40, on_nonfinite="mask").compute()
    assert 0 < found.valid.sum() < 40
    assert [str(f) for f in status(tmp_path / "s.zarr").failures] == [
        f"{40 - int(found.valid.sum())} x non-finite: variable 'a' (stage 'first', first at sample "
        f"{int(np.argmin(found.valid.values))})"
    ]


def test_ragged_samples_are_masked_to_their_full_size(tmp_path: Path) -> None:
    found = made(with_contexts(), tmp_path / "s.zarr", 64, on_error="mask").compute()
    assert np.isnan(found.y.values[~found.valid.values]).all()
    assert np.isfinite(found.y.values[found.valid.values]).all()
    assert (found.y.values == -9.0).any()


# Redrawing conditions on success.


def test_redrawn_samples_have_the_distribution_of_those_that_succeed(tmp_path: Path) -> None:
    found = made(make_simulator(prior), tmp_path / "s.zarr", 4000, on_error="redraw", chunk_size=800).compute()
    truncated = stats.truncnorm(-np.inf, 1.0)
    assert stats.kstest(found.theta.values.ravel(), truncated.cdf).pvalue > 1e-4


def test_redrawn_samples_have_the_joint_distribution_of_rejection(tmp_path: Path) -> None:
    found = made(chain(), tmp_path / "s.zarr", 4000, chunk_size=800, **REDRAW).compute()
    rng = np.random.default_rng(7)
    theta = rng.normal(size=40_000)
    x = theta[:, None] + rng.normal(size=(40_000, 2))
    accepted = (theta <= 1) & (x <= 2).all(axis=1) & (x[:, 0] > -1.5)
    for mine, wanted in ((found.theta.values.ravel(), theta), (found.x.values[:, 0], x[:, 0])):
        assert stats.ks_2samp(mine, wanted[accepted]).pvalue > 1e-4
    assert len(np.unique(found.theta)) == 4000
    failed = status(tmp_path / "s.zarr").n_failed
    rate = 4000 / (4000 + failed)
    assert abs(rate - accepted.mean()) < 5 * np.sqrt(rate * (1 - rate) / (4000 + failed)) + 5 * accepted.std() / 200


@pytest.mark.parametrize("use_mixed_batches", [True, False])
def test_contexts_and_unmixed_models_stay_where_samples_are_drawn_again(
    use_mixed_batches: bool, tmp_path: Path
) -> None:
    found = made(comparison(use_mixed_batches), tmp_path / "s.zarr", 80, on_error="redraw").compute()
    model = found.model_indices.values.argmax(axis=1)
    sizes = (found.y.values != -9.0).sum(axis=1)
    for i in range(0, 80, 8):
        rows = slice(i, i + 8)
        assert use_mixed_batches or len(set(model[rows])) == 1
        for chosen in set(model[rows]):
            assert len(set(found.n.values[rows][model[rows] == chosen].ravel())) == 1
    np.testing.assert_array_equal(sizes, found.n.values.ravel())
    assert (np.abs(found.y.values[:, :2] - found.theta.values.reshape(-1, 1)) < 1).all()


def test_contexts_of_nested_models_are_not_drawn_again_apart_from_samples(tmp_path: Path) -> None:
    def shared(batch_shape: tuple[int, ...], rng: Rng) -> dict[str, Any]:
        return {"scale": rng.uniform(1, 2), "loc": rng.normal(size=batch_shape)}

    inner = ModelComparisonSimulator(
        [lambda loc, scale: {"x": loc * scale}, lambda loc: {"x": loc}], shared_simulator=shared
    )
    simulator = ModelComparisonSimulator([inner, lambda rng: {"x": rng.normal()}])
    with pytest.raises(ArgumentError, match="makes contexts and samples at once, which cannot be drawn again apart"):
        made(simulator, tmp_path / "s.zarr", 16, on_error="redraw")


def test_sample_that_always_fails_is_given_up(tmp_path: Path) -> None:
    def observe(theta: float) -> dict[str, Any]:
        if theta == 13.0:
            raise ZeroDivisionError("no such theta")
        return {"x": theta}

    simulator = make_simulator([prior, observe])
    with pytest.raises(SimulatorError, match=r"sample 13 failed 100 times in a row, most often so: 100 x") as found:
        made(simulator, tmp_path / "s.zarr", 20, conditions={"theta": np.arange(20.0)}, on_error="redraw")
    assert "ZeroDivisionError: no such theta (stage 'observe', first at sample 13)" in str(found.value)
    assert f"dasksim.replay({str(tmp_path / 's.zarr')!r}, simulator, sample=13" in found.value.__notes__[-1]
    assert "on_error" not in found.value.__notes__[-1]


def test_rows_beyond_the_end_that_always_fail_do_not_matter(tmp_path: Path) -> None:
    def narrow(seed: int) -> dict[str, Any]:
        fail_above(float(seed in beyond), 0.5)
        return {"a": 1.0}

    def wide(batch_shape: tuple[int, ...], a: Any) -> dict[str, Any]:
        return {"b": a}

    beyond: set[int] = set()
    for redraw in range(100):
        beyond.update(seeds_of("narrow", range(12, 16), redraw=redraw))
    simulator = make_simulator([narrow, wide], obj_kwargs=[None, {"is_batched": True}])
    found = made(simulator, tmp_path / "s.zarr", 12, on_error="redraw")
    assert found.sizes["batch"] == 12
    assert status(tmp_path / "s.zarr").n_failed == 0


# Rejection.


@POLICIES
def test_proposals_that_fail_are_rejected(policy: dict[str, str], tmp_path: Path) -> None:
    found = made(RejectionSimulator(make_simulator(prior), lambda theta: theta > 0), tmp_path / "s.zarr", 80, **policy)
    assert ((found.theta > 0) & (found.theta <= 1)).all()
    if policy is MASK:
        assert found.valid.all()
    seen = status(tmp_path / "s.zarr")
    assert seen.n_accepted <= seen.n_proposals - seen.n_failed
    assert 0.2 < seen.acceptance_rate < 0.5  # 0.34 of the normal distribution lies between 0 and 1


def test_predicate_and_context_that_raise_always_stop(tmp_path: Path) -> None:
    def predicate(theta: Any) -> Any:
        fail_above(float(len(theta)), 2.5)
        return theta > 0

    def context(rng: Rng) -> dict[str, Any]:
        fail_above(rng.uniform(), 0.9)
        return {"level": 1.0}

    for i, policy in enumerate((MASK, REDRAW)):
        with pytest.raises(ValueError, match=r"more than 2\.5") as found:
            made(RejectionSimulator(make_simulator(prior), predicate), tmp_path / f"p{i}", 80, **policy)
        assert "on_error" not in "".join(found.value.__notes__)
        with pytest.raises(ValueError, match=r"more than 0\.9") as found:
            made(
                make_simulator([prior, lambda theta, level: {"x": theta}], meta_fn=context),
                tmp_path / f"c{i}",
                800,
                **policy,
            )
        assert "on_error" not in "".join(found.value.__notes__)


def test_rejection_in_which_all_proposals_fail_says_so(tmp_path: Path) -> None:
    def observe(theta: float, seed: int) -> dict[str, Any]:
        fail_above(float(seed not in probed), 0.5)
        return {"x": theta}

    probed = set(seeds_of("observe", range(2), seed=0, sub_batch=PROBE_SUB_BATCH))
    inner = make_simulator([lambda rng: {"theta": rng.normal()}, observe])
    simulator = RejectionSimulator(inner, lambda x: x > 0, max_proposals=50)
    with pytest.raises(SimulatorError, match=r"max_proposals=50 \(most that failed did so: 50 x ValueError: more than"):
        made(simulator, tmp_path / "n.zarr", 8, **MASK)


@POLICIES
@pytest.mark.parametrize("wrong", [None, {"y": 1.0}, {"x": np.zeros(2)}, {"x": "text"}, {"x": 1j}])
def test_wrong_output_always_stops(policy: dict[str, str], wrong: Any, tmp_path: Path) -> None:
    def wrong_at_times(rng: Rng) -> Any:
        theta = rng.normal()
        fail_above(theta, 1.5)
        return wrong if theta > 1.0 else {"x": theta}

    with pytest.raises(OutputError, match=r"stage 'wrong_at_times' at sample \d+ returned") as found:
        made(make_simulator(wrong_at_times), tmp_path / "s.zarr", 80, **policy)
    sample = str(found.value).split("at sample ")[1].split()[0]
    assert f"sample={sample})" in found.value.__notes__[-1]
    assert "on_error" not in found.value.__notes__[-1]


@pytest.mark.parametrize("timeout", [None, 60])
def test_an_error_says_how_to_go_on_without_samples_that_fail_where_that_helps(
    timeout: float | None, tmp_path: Path
) -> None:
    def without_x(rng: Rng) -> Any:
        return {"x": 1.0} if rng.normal() > -1.0 else {}

    with pytest.raises(ValueError, match="more than") as found:
        made(chain(), tmp_path / "s.zarr", 80, timeout=timeout)
    assert "or go on without samples that fail, by generate with on_error='mask'" in found.value.__notes__[-1]

    with pytest.raises(OutputError, match="without_x") as wrong:
        made(make_simulator(without_x), tmp_path / "w.zarr", 80, timeout=timeout)
    assert "dasksim.replay(" in wrong.value.__notes__[-1]
    assert "on_error" not in wrong.value.__notes__[-1]


@POLICIES
@pytest.mark.parametrize("is_batched", [False, True])
def test_a_function_that_ends_the_process_fails_like_one_that_raises(
    is_batched: bool, policy: dict[str, str], tmp_path: Path
) -> None:
    def ending(error: BaseException) -> Simulator:
        def one(rng: Rng) -> dict[str, Any]:
            return many((), rng)

        def many(batch_shape: tuple[int, ...], rng: Rng) -> dict[str, Any]:
            x = rng.normal(size=batch_shape)
            if np.any(x > 1):
                raise error
            return {"x": x}

        return make_simulator({"observe": many if is_batched else one}, is_batched=is_batched)

    cut = {"sub_batch_size": 1, "chunk_size": 10}
    raised = made(ending(ValueError()), tmp_path / "raised", 40, **cut, **policy)
    ended = made(ending(SystemExit(3)), tmp_path / "ended", 40, **cut, **policy)
    assert bits(ended) == bits(raised)
    assert status(tmp_path / "ended").n_failed == status(tmp_path / "raised").n_failed > 0
    assert "a function raised SystemExit(3), which would have ended" in str(status(tmp_path / "ended").failures[0])


# Policies and stores.


def test_failures_that_stopped_a_run_can_be_masked_or_drawn_again_from_then_on(tmp_path: Path) -> None:
    for name, policy in (("mask", MASK), ("redraw", REDRAW)):
        simulator = make_simulator(lambda rng: {"x": 1 / (rng.uniform() > 0.01)})
        with pytest.raises(ZeroDivisionError, match="division by zero"):
            made(simulator, tmp_path / name, 400, seed=8, on_nonfinite="raise")
        assert status(tmp_path / name).n_complete > 0
        assert bits(made(simulator, tmp_path / name, 400, seed=8, **policy)) == bits(
            simulated(simulator, 400, seed=8, **policy)
        )
        assert dasksim.verify(tmp_path / name, simulator, resimulate=99).is_good
        other = REDRAW if policy is MASK else MASK
        for refused in ({}, other):
            with pytest.raises(StoreMismatchError, match=f"on_error: '{name}' in the store, '.*' asked for"):
                made(simulator, tmp_path / name, 400, seed=8, **refused)


def test_names_of_policies_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="on_error must be one of 'raise', 'mask', 'redraw'; got 'keep'"):
        made(chain(), tmp_path / "s.zarr", 8, on_error="keep")
    with pytest.raises(ArgumentError, match="on_nonfinite must be one of 'keep', 'raise', 'mask', 'redraw'; got None"):
        made(chain(), tmp_path / "s.zarr", 8, on_nonfinite=None)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [({"valid": 1.0}, {}), ({"x": np.zeros(3)}, {"dims": {"x": ["valid"]}})],
    ids=["variable", "dim"],
)
def test_name_of_the_mask_is_taken(outputs: dict[str, Any], labels: dict[str, Any], tmp_path: Path) -> None:
    simulator = make_simulator(lambda: outputs, **labels)
    for on_error in ("mask", "redraw", "raise"):
        with pytest.raises((OutputError, SimulatorError), match=r"'valid'.* the name of the mask that .* rename "):
            made(simulator, tmp_path / "s.zarr", 8, on_error=on_error)
    assert not list(tmp_path.iterdir())


def test_probe_that_fails_is_made_on_another_sample(tmp_path: Path) -> None:
    def fails_often(rng: Rng) -> dict[str, Any]:
        x = rng.uniform()
        fail_above(x, 0.35)
        return {"x": x}

    simulator = make_simulator({f"stage_{i}": lambda rng, i=i: {f"x_{i}": fails_often(rng)["x"]} for i in range(2)})
    found = made(simulator, tmp_path / "s.zarr", 20, on_error="redraw").compute()
    assert (found.x_0 <= 0.35).all()
    conditioned = make_simulator(lambda theta: {"x": 1 / max(theta, 0)})
    found = made(conditioned, tmp_path / "c.zarr", 20, conditions={"theta": np.arange(20.0) - 3}, on_error="mask")
    assert found.valid.sum() == 16

    def broken(rng: Rng) -> dict[str, Any]:
        raise KeyError("always")

    with pytest.raises(KeyError, match="always") as error:
        made(make_simulator(broken), tmp_path / "b.zarr", 20, on_error="mask")
    assert "it raised exceptions 100 times in a row, on samples that differ" in error.value.__notes__


# What status tells.

LETTERS = str.maketrans("0123456789", "ghijklmnop")


def test_kinds_of_failures_are_counted_the_most_frequent_first(tmp_path: Path) -> None:
    def fail(rng: Rng) -> dict[str, Any]:
        x = rng.uniform()
        if x < 0.2:
            # without numbers, in which messages may differ
            raise ValueError(f"no solution\n  at {x.hex()[4:].translate(LETTERS)}: \u2603 " + "a" * 300)
        if x < 0.5:
            raise RuntimeError("did not converge")
        if x < 0.6:
            raise ArithmeticError
        return {"x": x}

    found = made(make_simulator(fail), tmp_path / "s.zarr", 200, on_error="mask").compute()
    seen = status(tmp_path / "s.zarr")
    assert seen.n_failed == 200 - found.valid.sum()
    assert [failure.kind for failure in seen.failures] == [
        "RuntimeError", "ArithmeticError", *["ValueError"] * 8, "others"
    ]  # fmt: skip
    assert all(len(failure.message) <= 200 for failure in seen.failures)
    lines = [line for line in str(seen).splitlines() if " x " in line]
    assert len(lines) == len(seen.failures)
    assert "x ArithmeticError (stage 'fail'" in lines[1]
    assert "no solution at " in lines[2]
    assert "\u2603" in lines[2]


def test_failures_of_rows_beyond_the_end_are_not_counted(tmp_path: Path) -> None:
    found = made(mixed_chain(), tmp_path / "s.zarr", 9, on_error="mask").compute()
    assert status(tmp_path / "s.zarr").n_failed == 9 - found.valid.sum()
    assert status(tmp_path / "s.zarr").failures == tuple(
        f for f in status(tmp_path / "s.zarr").failures if f.sample < 9
    )


def test_chunks_without_failures_have_no_record_of_them(tmp_path: Path) -> None:
    made(make_simulator(lambda rng: {"x": rng.normal()}), tmp_path / "s.zarr", 40, **MASK)
    assert not list((tmp_path / "s.zarr" / "_dasksim" / "failures").glob("c*"))
