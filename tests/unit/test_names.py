"""Names that no array in a store can have are refused by name, before anything is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import bits

from dasksim import ArgumentError, OutputError, generate, make_simulator, open_dataset, verify
from dasksim.errors import ArgumentTypeError

OPTIONS: dict[str, Any] = {"seed": 1, "sub_batch_size": 4, "chunk_size": 8, "scheduler": "synchronous"}

IMPOSSIBLE = {
    "zarr.json": r"be 'zarr\.json' or end with",
    "x.partial": r"end with '\.partial'",
    "a\\b": r"contain '\\'",
    "x" * 256: "be longer than 255 bytes",
    "ä" * 128: "be longer than 255 bytes",
    "a\nb": "contain control characters or surrogates",
    "a\0b": "contain control characters or surrogates",
    "a\x7fb": "contain control characters or surrogates",
    "a\ud800b": "contain control characters or surrogates",
}

POSSIBLE = ["c", "x" * 255, "ä" * 127, "a b", "a.", "zarr", "C", "a?b", "a%2Fb", "a*", "a[0]", "ω_0", "json.zarr"]


@pytest.mark.parametrize("name", IMPOSSIBLE, ids=lambda name: ascii(name)[:20])
def test_name_that_no_array_can_have_is_refused(name: str, tmp_path: Path) -> None:
    made = make_simulator(lambda rng: {name: rng.normal(), "y": 1.0})
    with pytest.raises(OutputError, match=f"returned the variable .*; a name cannot .*{IMPOSSIBLE[name]}"):
        generate(made, tmp_path / "s.zarr", 20, **OPTIONS)
    with pytest.raises(OutputError, match=IMPOSSIBLE[name]):
        made.sample(20, seed=1)
    with pytest.raises(ArgumentError, match=f"schema declares the variable .*{IMPOSSIBLE[name]}"):
        make_simulator(lambda rng: {name: rng.normal()}, schema={name: ((), "float64")})
    with pytest.raises(ArgumentTypeError, match=f"coords has labels of .*{IMPOSSIBLE[name]}"):
        make_simulator(lambda rng: {"x": rng.normal(size=2)}, dims={"x": [name]}, coords={name: [0, 1]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["..", ".", "_dasksim"])
def test_labels_that_would_lie_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"coords has labels of .* whose name cannot be that of a folder"):
        make_simulator(lambda rng: {"x": rng.normal(size=2)}, dims={"x": [name]}, coords={name: [0, 1]})


@pytest.mark.parametrize("name", POSSIBLE, ids=lambda name: ascii(name)[:20])
def test_name_that_looks_odd_is_stored(name: str, tmp_path: Path) -> None:
    made = make_simulator(
        lambda rng: {name: rng.normal(), "y": rng.normal(size=2)}, dims={"y": ["p"]}, coords={"p": ["a", "b"]}
    )
    generate(made, tmp_path / "s.zarr", 20, **OPTIONS)
    dataset = open_dataset(tmp_path / "s.zarr")
    assert bits(dataset) == bits(made.sample(20, seed=1, sub_batch_size=4))
    assert np.isfinite(dataset[name]).all()
    assert verify(tmp_path / "s.zarr").is_good
