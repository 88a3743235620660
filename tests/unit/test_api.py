"""The public names, what importing them costs, their docstrings, and the tree of errors."""

import importlib
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import dasksim
from dasksim import errors

#: Modules that users import by themselves.
APART = ("dasksim.cluster",)

REFERENCE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
#: Modules that need a package which dasksim does not.
OPTIONAL = {"dasksim.loaders.torch": "torch", "dasksim.loaders.keras": "keras"}
MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(dasksim.__path__, "dasksim.")
    if not module.name.endswith("__main__") and importlib.util.find_spec(OPTIONAL.get(module.name, "sys"))
]
NOT_CALLED = ("__version__", "errors", "loaders", "models", "plots", "random")
PUBLIC = [name for name in dasksim.__all__ if name not in NOT_CALLED]
CALLABLES = [getattr(dasksim, name) for name in PUBLIC] + list(dasksim.models.MODELS.values())
CALLABLES += [
    getattr(module, name) for module in (dasksim.loaders, dasksim.plots, dasksim.random) for name in module.__all__
]


def test_the_public_names_are_those_documented() -> None:
    entries = set(re.findall(r"^\.\. auto(?:function|class):: (\S+)$", REFERENCE, flags=re.MULTILINE))
    documented = entries | set(errors.__all__ if ".. automodule:: dasksim.errors" in REFERENCE else ())
    models = {f"dasksim.models.{name}" for name in dasksim.models.__all__ if name.islower()}

    apart = {f"{module}.{name}" for module in APART for name in importlib.import_module(module).__all__}
    loaders = {f"dasksim.loaders.{name}" for name in dasksim.loaders.__all__}
    loaders |= {
        f"dasksim.loaders.{name}" for name in ("torch.StoreBatches", "torch.StoreSamples", "keras.StoreDataset")
    }

    others = {f"{m.__name__}.{name}" for m in (dasksim.plots, dasksim.random) for name in m.__all__}

    assert set(PUBLIC) | models | apart | loaders | others == documented


def test_all_lists_exactly_what_can_be_imported() -> None:
    assert dasksim.__all__ == sorted(dasksim.__all__)
    assert all(hasattr(dasksim, name) for name in dasksim.__all__)
    exposed = {
        name for name, value in vars(dasksim).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert exposed <= set(dasksim.__all__)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_module_says_what_is_public(module: Any) -> None:
    assert module.__doc__
    is_private_folder = hasattr(module, "__path__") and module.__name__.rpartition(".")[2].startswith("_")
    names = getattr(module, "__all__", [] if is_private_folder else ["__version__"])
    assert bool(names) != is_private_folder
    assert all(hasattr(module, name) for name in names)


def loaded(code: str, names: Sequence[str]) -> list[str]:
    """Return which modules are loaded in a new process once it has run something."""
    code = f"import sys\n{code}\nprint(*(name for name in {tuple(names)} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_importing_dasksim_imports_no_optional_package() -> None:
    optional = ("torch", "keras", "bayesflow", "sbi", "matplotlib", "cupy", "distributed", "tensorflow", "jax")

    assert loaded("import dasksim\nfor name in dasksim.__all__: getattr(dasksim, name)", optional) == []


def test_importing_dasksim_loads_nothing_before_it_is_used() -> None:
    assert loaded("import dasksim", ("numpy", "dask", "xarray", "zarr")) == []


def test_a_name_that_is_also_a_modules_stays_what_it_is() -> None:
    code = "import dasksim.models.sir, dasksim\nassert callable(dasksim.models.sir)"

    assert loaded(code, ("dasksim.models.sir", "dasksim.models.slcp")) == ["dasksim.models.sir"]


def test_a_worker_imports_what_a_chunk_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASKSIM_TEST", "imports")  # not one that has served other tests

    def draw(rng: Any) -> dict[str, Any]:
        names = ("numpy", "zarr", "dask", "dask.array", "xarray", "pandas", "distributed")
        return {"x": rng.normal(), "is_loaded": [name in sys.modules for name in names]}

    dataset = dasksim.generate(
        dasksim.make_simulator([draw]), tmp_path / "store.zarr", 2, seed=1, scheduler="processes", audit=False
    )

    assert dataset.is_loaded.values.tolist() == [[True, True, *[False] * 5]] * 2


def test_the_version_is_that_of_the_package() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", dasksim.__version__)
    assert importlib.metadata.version("dasksim") == dasksim.__version__


# Docstrings


def sections(docstring: str) -> dict[str, str]:
    """Return the sections of a numpydoc docstring, by title; the text before them has none."""
    parts = re.split(r"^(\w[\w ]*)\n-+$", inspect.cleandoc(docstring), flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def described(section: str) -> set[str]:
    """Return the names that a section describes, such as ``chunk_size`` or ``**conditions``."""
    lines = re.findall(r"^(\S.*)$", section, flags=re.MULTILINE)
    return {name.strip("* ") for line in lines for name in line.split(",")}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_public_functions_and_classes_have_a_summary(module: Any) -> None:
    for name in getattr(module, "__all__", ()):
        obj = getattr(module, name)
        is_own = getattr(obj, "__module__", "").startswith("dasksim")
        if is_own and (inspect.isfunction(obj) or inspect.isclass(obj)):
            summary = sections(obj.__doc__ or "")[""].strip().partition("\n\n")[0]
            assert re.fullmatch(r"[A-Z`](?s:.*)[.:]", summary), f"{module.__name__}.{name}"


@pytest.mark.parametrize("obj", [*CALLABLES, dasksim.Simulator.sample], ids=lambda obj: obj.__qualname__)
def test_every_argument_and_result_of_the_public_interface_is_described(obj: Any) -> None:
    if inspect.isclass(obj) and (issubclass(obj, Exception) or inspect.isabstract(obj)):
        return
    found = sections(obj.__doc__)
    parameters = set(inspect.signature(obj).parameters) - {"self"}

    assert described(found.get("Parameters", "")) == parameters
    if inspect.isfunction(obj) and obj is not dasksim.status:
        assert "Returns" in found


# Errors


def test_the_tree_of_errors_is_small_and_each_is_what_a_caller_expects() -> None:
    classes = [getattr(errors, name) for name in errors.__all__]
    builtins = {"ArgumentError": ValueError, "ArgumentTypeError": TypeError, "SimulatorError": ValueError}
    builtins |= {
        "OutputError": ValueError,
        "StoreError": OSError,
        "StoreMismatchError": ValueError,
        "IrreproducibleError": RuntimeError,
    }

    assert len(classes) <= 9
    assert all(issubclass(error, errors.DasksimError) for error in classes)
    assert all(issubclass(getattr(errors, name), builtin) for name, builtin in builtins.items())
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert defined == set(errors.__all__)


def test_no_error_is_raised_but_those_of_the_tree() -> None:
    raised = {
        name
        for module in MODULES
        for name in re.findall(r"raise (\w+)\(", inspect.getsource(module))
        if name not in errors.__all__
    }

    # a key that a layer lacks, and a worker process that dasksim did not start: no user's doing; the end of a sequence
    assert raised <= {"KeyError", "RuntimeError", "IndexError", "error"}


def test_the_nearest_name_is_offered() -> None:
    assert errors.nearest("tehta", ["theta", "x"]) == "did you mean 'theta'?"
    assert errors.nearest("q", ["theta", "x"]) == "known: 'theta', 'x'"
    assert errors.nearest(1, ["theta"]) == "known: 'theta'"
    assert errors.nearest("q", []) == "known: none"
