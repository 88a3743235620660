"""Stages on a GPU: where arrays cross, what a dataset and a store hold, and what is refused.

No GPU is needed. ``array_api_strict``, which refuses whatever is outside the array API standard, stands for one where
values end up in a store; arrays that refuse to become NumPy's stand for one where they stay. Both draw what NumPy does,
so that the values must be those of the CPU.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import array_api_strict
import dask.array as da
import numpy as np
import pytest
import standin
import xarray as xr
from distributed import Client, Scheduler, SpecCluster, Worker, get_worker
from variants import quick

import dasksim
from dasksim import (
    ArgumentError,
    HierarchicalSimulator,
    LambdaSimulator,
    ModelComparisonSimulator,
    RejectionSimulator,
    Simulator,
    StoreMismatchError,
    generate,
    make_simulator,
)
from dasksim._core.arrays import Device, GpuGenerator, _ask_cupy, _open_gpu, _Wide, as_host
from dasksim._streams.addresses import Address
from dasksim.models import MODELS

CUT: dict[str, Any] = {"sub_batch_size": 8, "chunk_size": 16}


class StrictDevice(Device):
    """The array API standard, and nothing else."""

    xp = array_api_strict

    def put(self, value: Any) -> Any:
        return (
            value if hasattr(value, "__array_namespace__") and not isinstance(value, np.ndarray) else self._new(value)
        )

    def _new(self, value: Any) -> Any:
        return array_api_strict.asarray(np.array(value))

    def generator(self, sequence: np.random.SeedSequence) -> GpuGenerator:
        return GpuGenerator(StrictGenerator(np.random.Generator(np.random.SFC64(sequence))))


class DrawingOnHost(StrictDevice):
    """Gives functions the generators of the host, from which the models draw in a way of their own."""

    def generator(self, sequence: np.random.SeedSequence) -> Any:
        return np.random.Generator(np.random.SFC64(sequence))


class StrictGenerator:
    """Draws what NumPy's generator does, by the methods that CuPy's has, as strict arrays."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in standin.METHODS:
            raise AttributeError(f"'Generator' object has no attribute {name!r}")
        method = getattr(self._generator, name)
        return lambda *arguments, **options: array_api_strict.asarray(
            np.array(method(*(as_host(a)[()] if hasattr(a, "shape") else a for a in arguments), **options))
        )


def become_gpu(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dasksim._core.arrays._open_gpu", lambda: device)
    monkeypatch.setattr("dasksim._core.arrays._why_no_gpu", lambda: None)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    become_gpu(StrictDevice(), monkeypatch)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    become_gpu(standin.StandInDevice(), monkeypatch)
    standin.CROSSINGS.clear()
    yield standin.CROSSINGS
    standin.CROSSINGS.clear()


def prior(batch_shape: tuple[int, ...], rng: Any, xp: Any) -> dict[str, Any]:
    return {"theta": xp.asarray(rng.standard_normal((*batch_shape, 2), dtype="float32"))}


def observe(theta: Any, batch_shape: tuple[int, ...], rng: Any, xp: Any) -> dict[str, Any]:
    noise = xp.asarray(rng.standard_normal((*batch_shape, 2), dtype="float32"))
    return {"x": theta + noise, "y": xp.sum(theta * theta, axis=-1)}


def on_host(theta: Any) -> dict[str, Any]:
    assert isinstance(theta, np.ndarray)
    return {"length": np.sqrt((theta**2).sum(axis=-1))}


def again_on_gpu(theta: Any, length: Any, xp: Any) -> dict[str, Any]:
    return {"direction": theta / length[..., None]}


def is_short(y: Any, xp: Any) -> Any:
    return y < xp.asarray(2.0, dtype=xp.float32)


def context(rng: np.random.Generator) -> dict[str, Any]:
    return {"scale": rng.uniform(1, 2), "n_points": rng.integers(2, 5)}


def ragged(batch_shape: tuple[int, ...], scale: float, n_points: int, rng: Any, xp: Any) -> dict[str, Any]:
    return {"x": scale * xp.asarray(rng.standard_normal((*batch_shape, n_points)))}


def batched(*functions: Callable[..., Any], **options: Any) -> Simulator:
    return make_simulator(list(functions), is_batched=True, **options)


def failing(theta: Any, xp: Any) -> dict[str, Any]:
    return {"x": xp.where(theta > 1, xp.asarray(xp.nan, dtype=xp.float32), theta)}


def raising(theta: Any, xp: Any) -> dict[str, Any]:
    if bool(xp.any(theta > 1.4)):
        raise RuntimeError("too large")
    return {"x": xp.exp(theta)}


SIMULATORS: dict[str, Callable[[], Simulator]] = {
    "single": lambda: LambdaSimulator(prior, is_batched=True),
    "chain": lambda: batched(prior, observe),
    "mixed": lambda: batched(prior, on_host, again_on_gpu, expand_outputs=False),
    "rows_between": lambda: make_simulator(
        [prior, lambda theta: {"first": float(theta[0])}, again_from_rows],
        obj_kwargs=[{"is_batched": True}, None, {"is_batched": True}],
        expand_outputs=False,
    ),
    "contexts": lambda: batched(ragged, meta_fn=context, dims={"x": ["obs"]}, max_sizes={"obs": 5}),
    "plates": lambda: HierarchicalSimulator([batched(prior), batched(observe)]),
    "rejection": lambda: RejectionSimulator(batched(prior, observe, expand_outputs=False), is_short),
    "rejection_on_host": lambda: RejectionSimulator(batched(prior, observe, expand_outputs=False), lambda y: y < 2),
    "rejection_of_all": lambda: RejectionSimulator(batched(prior, observe), lambda v: v["y"][:, 0] < 2),
    "graph": dasksim.models.crossed_design_irt,
    "comparison": lambda: ModelComparisonSimulator([batched(prior, observe), batched(prior, other)]),
}


def again_from_rows(first: Any, theta: Any, xp: Any) -> dict[str, Any]:
    return {"second": xp.asarray(first, dtype=xp.float32) + theta[..., 1]}


def other(theta: Any, xp: Any) -> dict[str, Any]:
    return {"x": xp.exp(theta), "y": xp.abs(theta[..., 0])}


def made(simulator: Simulator, store: Path, device: Any, **options: Any) -> xr.Dataset:
    options = {"seed": 1, "scheduler": "threads", **CUT, **options}
    n = (21, 3) if isinstance(simulator, HierarchicalSimulator) else 21
    return generate(simulator, store, n, device=device, **options).compute()


def assert_same_values(found: xr.Dataset, wanted: xr.Dataset, *, rtol: float = 1e-6) -> None:
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert found[name].dims == array.dims
        np.testing.assert_allclose(found[name].values, array.values, rtol=rtol, atol=1e-6)


def test_the_stand_in_counts_what_is_computed() -> None:
    """A benchmark reads off it what a GPU would have to do."""
    standin.KERNELS.clear()
    x = standin.asarray(np.ones((4, 2)))
    x *= 2.0
    y = standin.exp(x[:, 0]) + x.reshape(-1)[:4].astype("float32")
    standin.stack([y, y])
    assert standin.KERNELS == [
        ("multiply", 128),
        ("exp", 64),
        ("astype", 48),
        ("add", 80),
        ("stack", 128),
    ]


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("make", SIMULATORS.values(), ids=SIMULATORS)
def test_whole_path_stays_within_the_standard(make: Callable[[], Simulator], tmp_path: Path) -> None:
    found = made(make(), tmp_path / "gpu.zarr", "gpu")
    assert_same_values(found, made(make(), tmp_path / "cpu.zarr", "cpu"))


@pytest.mark.parametrize("variant", quick(["bayesflow", "sbibm"], "bayesflow"))
@pytest.mark.parametrize("name", quick(MODELS, *(MODELS.keys() - {"lotka_volterra"})))
def test_every_model_runs_on_the_standard_into_a_store(
    name: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become_gpu(DrawingOnHost(), monkeypatch)
    try:
        simulator = MODELS[name](variant=variant)
    except (ArgumentError, TypeError):
        pytest.skip("it has no such variant")
    assert all(stage.can_use_gpu for stage in simulator.lower().stages)
    found = made(simulator, tmp_path / "gpu.zarr", "gpu")
    assert_same_values(found, made(simulator, tmp_path / "cpu.zarr", "cpu"), rtol=1e-4)
    assert json.loads(found.attrs["dasksim"])["device"] == "gpu"


@pytest.mark.parametrize("name", ["single", "chain", "mixed", "rows_between", "contexts", "plates"])
def test_chunks_are_backed_by_arrays_of_the_device(name: str, stand_in: list[Any]) -> None:
    simulator = SIMULATORS[name]()
    n = (21, 3) if name == "plates" else 21
    dataset = simulator.sample(n, seed=1, device="gpu", **CUT)
    computed = dataset.compute(scheduler="threads")
    wanted = simulator.sample(n, seed=1, device="cpu", **CUT).compute()
    for variable, array in dataset.items():
        of_host = variable in {"length", "first", "scale", "n_points"}
        kind = np.ndarray if of_host else standin.Array
        assert isinstance(array.data, da.Array)
        assert isinstance(array.data._meta, kind)
        assert isinstance(computed[variable].data, kind)
        values = computed[variable].data
        np.testing.assert_array_equal(values if of_host else values.get(), wanted[variable].values)


def test_an_array_crosses_once_however_many_take_it(stand_in: list[Any], tmp_path: Path) -> None:
    def first(theta: Any) -> dict[str, Any]:
        return {"a": theta + 1}

    def second(theta: Any, a: Any) -> dict[str, Any]:
        return {"b": theta + a}

    def third(a: Any, b: Any, theta: Any, xp: Any) -> dict[str, Any]:
        return {"c": xp.exp(a + b)}

    def fourth(a: Any, c: Any, xp: Any) -> dict[str, Any]:
        return {"d": a * c}

    simulator = batched(prior, first, second, third, fourth)
    dataset = generate(simulator, tmp_path / "s.zarr", 8, seed=1, device="gpu", scheduler="synchronous", audit=False)
    rows = (8, 2)
    # theta, c and d come to the host; a and b, which was made of them, go to the GPU
    assert sorted(stand_in) == sorted([("get", rows)] * 3 + [("put", rows)] * 2)
    assert_same_values(dataset.compute(), simulator.sample(8, seed=1, device="cpu").compute())


def test_crossings_are_tasks_of_the_graph(stand_in: list[Any]) -> None:
    dataset = SIMULATORS["mixed"]().sample(21, seed=1, device="gpu", **CUT)
    layers = [name.rpartition("-")[0].rpartition("-")[0] for name in dataset.direction.data.dask.layers]
    assert [name for name in layers if "-to-" in name] == ["theta-to-cpu", "length-to-gpu"]


def test_conditions_cross_too(stand_in: list[Any], tmp_path: Path) -> None:
    theta = np.random.default_rng(1).normal(size=(21, 2)).astype("float32")
    simulator = batched(prior, observe)
    wanted = simulator.sample(21, seed=1, device="cpu", theta=theta, **CUT).compute()
    for values in (theta, da.from_array(theta, chunks=7)):
        lazy = simulator.sample(21, seed=1, device="gpu", theta=values, **CUT)
        np.testing.assert_array_equal(lazy.x.data.compute(scheduler="threads").get(), wanted.x)
    found = generate(
        simulator, tmp_path / "s.zarr", 21, seed=1, device="gpu", conditions={"theta": theta}, progress=False, **CUT
    )
    assert_same_values(found.compute(), wanted)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("policy", ["mask", "redraw"])
@pytest.mark.parametrize("function", [failing, raising])
def test_samples_that_fail_on_the_device(function: Callable[..., Any], policy: str, tmp_path: Path) -> None:
    options = {"on_error": policy, "on_nonfinite": policy}
    stores = [tmp_path / "gpu.zarr", tmp_path / "cpu.zarr"]
    found, wanted = (
        made(batched(prior, function), store, device, **options)
        for store, device in zip(stores, ("gpu", "cpu"), strict=True)
    )
    assert_same_values(found, wanted)
    assert dasksim.status(stores[0]).failures == dasksim.status(stores[1]).failures != ()


@pytest.mark.usefixtures("strict")
def test_nonfinite_values_on_the_device_name_the_sample(tmp_path: Path) -> None:
    with pytest.raises(
        dasksim.OutputError, match=r"'x' with NaN or infinite values at sample \d+, whose inputs are the"
    ):
        made(batched(prior, failing), tmp_path / "s.zarr", "gpu", on_nonfinite="raise")


@pytest.mark.usefixtures("strict")
def test_store_of_a_gpu_is_verified_and_replayed(tmp_path: Path) -> None:
    simulator, store = SIMULATORS["mixed"](), tmp_path / "s.zarr"
    dataset = made(simulator, store, "gpu")
    assert dasksim.verify(store, simulator, resimulate=2).is_good
    found = dasksim.replay(store, simulator, sample=13)
    assert [stage.name for stage in found.stages] == ["prior", "on_host", "again_on_gpu"]
    np.testing.assert_array_equal(found.variables["theta"], dataset.theta[13])
    np.testing.assert_array_equal(found.stages[2].inputs["length"], dataset.length[13])
    assert len(dasksim.extend(store, simulator, 40).batch) == 40


@pytest.mark.usefixtures("strict")
def test_store_is_continued_on_its_kind_of_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = batched(prior, observe)
    for device, other_device in [("gpu", "cpu"), ("cpu", "gpu")]:
        store = tmp_path / f"{device}.zarr"
        made(simulator, store, device)
        with pytest.raises(StoreMismatchError, match=f"device: '{device}' in the store, '{other_device}' asked for"):
            made(simulator, store, other_device)
        assert json.loads(made(simulator, store, "auto").attrs["dasksim"])["device"] == device
    monkeypatch.undo()
    with pytest.raises(ArgumentError, match="no GPU can be used here"):
        dasksim.extend(tmp_path / "gpu.zarr", simulator, 40, scheduler="threads")


def test_auto_uses_a_gpu_where_one_is(stand_in: list[Any]) -> None:
    assert json.loads(batched(prior).sample(4, seed=1).attrs["dasksim"])["device"] == "gpu"
    plain = batched(lambda batch_shape, rng: {"x": rng.normal(size=batch_shape)})
    assert json.loads(plain.sample(4, seed=1).attrs["dasksim"])["device"] == "cpu"
    assert isinstance(batched(prior).sample(4, seed=1).compute().theta.data, standin.Array)


def test_auto_is_the_cpu_where_none_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dasksim._core.arrays._why_no_gpu", lambda: "there is none")
    assert json.loads(batched(prior).sample(4, seed=1).attrs["dasksim"])["device"] == "cpu"


def test_a_function_says_what_it_can_do(stand_in: list[Any]) -> None:
    def shifted(theta: Any) -> dict[str, Any]:
        return {"x": theta + 1}

    declared = make_simulator(
        [prior, shifted], obj_kwargs=[{"is_batched": True}, {"is_batched": True, "can_use_gpu": True}]
    )
    assert isinstance(declared.sample(4, seed=1, device="gpu").x.compute().data, standin.Array)
    denied = make_simulator(
        [prior, shifted], obj_kwargs=[{"is_batched": True, "can_use_gpu": False}, {"is_batched": True}]
    )
    with pytest.raises(ArgumentError, match="no stage of the simulator can run on a GPU"):
        denied.sample(4, device="gpu")
    with pytest.raises(ArgumentError, match="for a batched function"):
        LambdaSimulator(shifted, can_use_gpu=True)


def test_what_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    _ask_cupy.cache_clear()
    _open_gpu.cache_clear()
    with pytest.raises(ArgumentError, match=r"device='gpu', but no GPU can be used here: CuPy cannot be imported"):
        batched(prior).sample(4, seed=1, device="gpu")
    with pytest.raises(ArgumentError, match="device must be 'auto', 'cpu' or 'gpu'; got 'cuda'"):
        batched(prior).sample(4, seed=1, device="cuda")  # type: ignore[arg-type]
    _ask_cupy.cache_clear()
    monkeypatch.setenv("CUPY_CUDA_PER_THREAD_DEFAULT_STREAM", "1")
    with pytest.raises(ArgumentError, match="CUPY_CUDA_PER_THREAD_DEFAULT_STREAM is set"):
        batched(prior).sample(4, seed=1, device="gpu")
    _ask_cupy.cache_clear()


def test_a_store_is_not_begun_where_the_device_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no GPU can be used here"):
        made(batched(prior), tmp_path / "s.zarr", "gpu")
    assert not (tmp_path / "s.zarr").exists()


def test_normal_draws_that_cupy_lacks(stand_in: list[Any], tmp_path: Path) -> None:
    def scaled(theta: Any, rng: Any, xp: Any) -> dict[str, Any]:
        return {"x": rng.normal(theta, 2.0, size=theta.shape), "y": rng.normal(theta), "z": rng.normal(size=len(theta))}

    simulator = batched(prior, scaled)
    found = made(simulator, tmp_path / "gpu.zarr", "gpu")
    assert_same_values(found, made(simulator, tmp_path / "cpu.zarr", "cpu"))


def test_other_draws_that_cupy_lacks_say_what_to_do(stand_in: list[Any]) -> None:
    simulator = batched(lambda batch_shape, rng, xp: {"x": rng.triangular(0, 1, 2, size=batch_shape)})
    with pytest.raises(AttributeError, match="has no attribute 'triangular'") as found:
        simulator.sample(4, seed=1, device="gpu").compute(scheduler="synchronous")
    assert "declare that the function runs on the host (can_use_gpu=False)" in "".join(found.value.__notes__)


def test_dtypes_of_older_rules_of_promotion_are_cast(stand_in: list[Any], tmp_path: Path) -> None:
    def double_on_the_device(theta: Any, xp: Any) -> dict[str, Any]:
        return {"x": theta.astype("float64" if xp is standin else "float32")}

    found = made(batched(prior, double_on_the_device), tmp_path / "s.zarr", "gpu")
    assert found.x.dtype == np.float32


def test_functions_that_use_global_generators_stay_on_the_host(stand_in: list[Any], tmp_path: Path) -> None:
    def hidden(theta: Any, xp: Any) -> dict[str, Any]:
        return {"x": theta + xp.asarray(xp.random.normal(size=theta.shape))}

    simulator = batched(prior, hidden)
    found = made(simulator, tmp_path / "gpu.zarr", "gpu")
    assert_same_values(found, made(simulator, tmp_path / "cpu.zarr", "cpu"))
    with pytest.raises(ArgumentError, match="no stage of the simulator can run on a GPU"):
        batched(lambda batch_shape, xp: {"x": xp.random.normal(size=batch_shape)}).sample(4, device="gpu")


def test_conditions_of_an_earlier_dataset_of_the_device(stand_in: list[Any], tmp_path: Path) -> None:
    simulator = batched(prior, on_host)
    earlier = simulator.sample(21, seed=1, device="gpu", **CUT)
    wanted = simulator.sample(21, seed=1, device="cpu", **CUT).compute()
    for given in (earlier.theta, earlier.theta.compute(scheduler="threads"), earlier.theta.data):
        found = simulator.sample(21, seed=2, device="cpu", theta=given, **CUT).compute(scheduler="threads")
        np.testing.assert_array_equal(found.length, wanted.length)


def test_errors_of_the_device_are_no_samples_fault(stand_in: list[Any], tmp_path: Path) -> None:
    error = type("OutOfMemoryError", (MemoryError,), {"__module__": "cupy.cuda.memory"})

    def observed(theta: Any, xp: Any) -> dict[str, Any]:
        if xp is standin:
            raise error("out of memory")
        return {"x": theta}

    with pytest.raises(MemoryError, match="out of memory"):
        made(batched(prior, observed), tmp_path / "s.zarr", "gpu", on_error="mask")


@pytest.mark.usefixtures("strict")
def test_predicate_of_a_mapping_may_take_the_namespace(tmp_path: Path) -> None:
    simulator = RejectionSimulator(batched(prior, observe), lambda v, xp: xp.abs(v["theta"][:, 0]) < 1)
    found = made(simulator, tmp_path / "gpu.zarr", "gpu")
    assert_same_values(found, made(simulator, tmp_path / "cpu.zarr", "cpu"))
    assert (abs(found.theta[:, 0]) < 1).all()


def test_bayesflow_is_given_arrays_of_the_host(stand_in: list[Any]) -> None:
    batch = batched(prior, observe).to_bayesflow(seed=1).sample(8)
    assert all(isinstance(value, np.ndarray) for value in batch.values())


def test_all_that_is_accepted_on_the_device(stand_in: list[Any]) -> None:
    simulator = batched(prior, observe, expand_outputs=False)
    options: dict[str, Any] = {"seed": 1, "sub_batch_size": 8, "overshoot": True}
    found = simulator.rejection_sample(20, is_short, device="gpu", **options)
    assert found.identical(simulator.rejection_sample(20, is_short, device="cpu", **options).assign_attrs(found.attrs))


def test_seeds_of_cupys_generators_have_63_bits() -> None:
    sequences = [Address(1, 2, sub_batch).sequence() for sub_batch in range(2000)]
    seeds = {int(_Wide.of(sequence).generate_state(1, np.uint32)[0]) for sequence in sequences}
    assert len(seeds) == len(sequences)
    assert max(seeds) < 2**63
    assert sum(seed >> 32 > 0 for seed in seeds) == len(seeds)


@pytest.mark.usefixtures("strict")
def test_chunks_go_to_workers_that_announce_a_gpu(tmp_path: Path) -> None:
    def where(batch_shape: tuple[int, ...], xp: Any) -> dict[str, Any]:
        return {"has_gpu": xp.full(batch_shape, get_worker().name == "with_gpu")}

    simulator = LambdaSimulator(where, is_batched=True, schema={"has_gpu": ((), "bool")})
    workers = {
        "plain": {"cls": Worker, "options": {"nthreads": 2}},
        "with_gpu": {"cls": Worker, "options": {"nthreads": 1, "resources": {"GPU": 1}}},
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard": False, "dashboard_address": ":0", "port": 0}}
    with SpecCluster(workers, scheduler) as cluster, Client(cluster) as client:
        dataset = generate(
            simulator, tmp_path / "s.zarr", 64, seed=1, device="gpu", scheduler=client, sub_batch_size=4, chunk_size=4
        )
    assert dataset.has_gpu.all()
