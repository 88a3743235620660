"""What a dataset of dasksim's has besides what every xarray.Dataset has: ``dataset.dasksim``."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dasksim._core.arrays import as_host
from dasksim._core.failures import VALID
from dasksim.errors import StoreError

__all__ = ["DatasetAccessor"]


@xr.register_dataset_accessor("dasksim")  # type: ignore[no-untyped-call]
class DatasetAccessor:
    """``dataset.dasksim``: a dataset in the form that other libraries take, and what dasksim says of it.

    It is there for every :class:`xarray.Dataset` once dasksim has made or opened one.

    Parameters
    ----------
    dataset
        The dataset whose attribute it is.

    Examples
    --------
    >>> import dasksim
    >>> ds = dasksim.make_simulator(lambda rng: {"x": rng.normal(size=3)}).sample(10, seed=1)
    >>> ds.dasksim.to_dict()["x"].shape, ds.dasksim.provenance["seed"]
    ((10, 3), 1)
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def to_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Return all variables as NumPy arrays, computed at once: BayesFlow, Keras and others take such dicts.

        Variable by variable, as by ``ds["x"].values``, a lazy dataset runs the simulator once for each.

        Returns
        -------
        dict
            Arrays in memory, the ``batch`` axis first, in the dataset's order.
        """
        computed = self._dataset.compute()
        return {str(name): as_host(array.data) for name, array in computed.data_vars.items()}

    @property
    def valid(self) -> xr.DataArray:
        """Which samples have not failed, boolean with the dim ``batch``: the mask, or True where nothing is masked.

        It is in memory, as xarray wants what it selects by: ``ds.isel(batch=ds.dasksim.valid)``.
        """
        if VALID in self._dataset:
            return self._dataset[VALID].compute()
        return xr.DataArray(np.full(self._dataset.sizes["batch"], True), dims="batch", name=VALID)

    @property
    def acceptance(self) -> float | None:
        """The share of proposals that were accepted, from 0 to 1, if it is of a store of a simulator that rejects some.

        Only a store has counted them; None otherwise.
        """
        return self._dataset.attrs.get("acceptance_rate")

    @property
    def provenance(self) -> dict[str, Any]:
        """Seed, sizes, stages, conditions and versions of packages that the dataset was made with.

        Raises
        ------
        StoreError
            If the dataset is not one of dasksim's.
        """
        if "dasksim" not in self._dataset.attrs:
            raise StoreError(
                "the dataset does not say how it was made: it lacks the attribute 'dasksim', which those of dasksim "
                "have; xarray drops attributes where keep_attrs=False"
            )
        found: dict[str, Any] = json.loads(self._dataset.attrs["dasksim"])
        return found
