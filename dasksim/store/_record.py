"""What a store says of itself: its record, of which ``_entries`` has the parts.

Each stands around the JSON that was read, or that is to be written: what a later version has put there stays as it is.
Nothing else in dasksim knows its keys, but for the rules by which the record of a stranger's store is checked.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dasksim._core.attributes import Coordinate
from dasksim._core.failures import VALID, Policy
from dasksim.store._entries import (
    Derivation,
    StoredStage,
    StoredVariable,
    Told,
    all_told,
    as_mapping,
    as_read,
    created_now,
    variable_of,
    without,
)

__all__ = ["ATTRIBUTE", "FORMAT", "Record"]

#: Name of the attribute that holds a record, a JSON string.
ATTRIBUTE = "dasksim"

#: Version of the store's layout.
FORMAT = 1

#: What must agree between a store and a call that continues it, under the names that the message uses.
_OF_STORE = (
    "n_samples",
    "further",
    "seed",
    "sub_batch_size",
    "chunk_size",
    "device",
    "on_error",
    "on_nonfinite",
    "masks",
    "conditions",
    "variables",
    "coords",
    "labels",
)

#: What a store of an older version does not say.
_UNSAID = {"device": "cpu", "on_error": "raise", "on_nonfinite": "keep", "masks": "whole samples"}

#: What stays the same when a store is extended.
#: The time of creation tells one that the same call made anew.
_IDENTITY = ("format", "seed", "sub_batch_size", "chunk_size", "further", "variables", "created")

# What a masked sample lacks; in stores of older versions all.
_MASKS_LATER = "what the stage that failed and those after it make"

# The variable that says which samples are valid.
_MASK = StoredVariable(("batch",), (), np.dtype(bool))


@dataclass(frozen=True)
class Record(Told):
    """What a store says of itself."""

    @classmethod
    def of(
        cls,
        provenance: Mapping[str, Any],
        *,
        shape: Sequence[int],
        chunk_size: int,
        policy: Policy,
        variables: Mapping[str, StoredVariable],
        coords: Mapping[str, Coordinate],
        dtypes: Any = None,
    ) -> "Record":
        """Return what a new store says of itself.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If a dtype cannot be used.
        """
        mask = {VALID: _MASK.told()} if policy.masks else {}
        told = {
            "format": FORMAT,
            **provenance,
            "created": created_now(),
            "n_samples": shape[0],
            "further": list(shape[1:]),
            "chunk_size": chunk_size,
            "on_error": policy.on_error,
            "on_nonfinite": policy.on_nonfinite,
            "masks": _MASKS_LATER,
            "variables": {**all_told(variables, dtypes), **mask},
            "coords": {name: [str(value) for value in c.values] for name, c in coords.items()},
            "labels": {name: {"dims": list(c.dims), "attrs": dict(c.attrs)} for name, c in coords.items()},
        }
        return cls(as_read(told))

    @classmethod
    def of_dataset(cls, attributes: Mapping[Any, Any]) -> "Record":
        """Return what a dataset's attributes say of how it was made; nothing if they do not."""
        try:
            told = json.loads(attributes.get(ATTRIBUTE, "{}"))
        except (TypeError, ValueError):
            told = {}
        return cls(as_mapping(told))

    @property
    def text(self) -> str:
        """The record as it stands in an attribute."""
        return json.dumps(self.document)

    @property
    def short_text(self) -> str:
        """The record as it stands in the attribute of a dataset, which shows labels itself, without empty entries."""
        stages = [_said(without(stage.document, "probe")) for stage in self.stages]
        return json.dumps({**self.document, "stages": stages, "coords": {}, "labels": {}})

    @property
    def shape(self) -> tuple[int, ...]:
        """The batch shape."""
        return (self.n_samples, *self.document["further"])

    @property
    def chunk_size(self) -> int:
        """Samples in a chunk."""
        return int(self.document["chunk_size"])

    @property
    def sub_batch_size(self) -> int:
        """Samples in a sub-batch."""
        return int(self.document["sub_batch_size"])

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.document["seed"])

    @property
    def n_chunks(self) -> int:
        """Number of chunks; the last one may be short."""
        return -(-self.n_samples // self.chunk_size)

    @property
    def chunk_counts(self) -> tuple[int, ...]:
        """The number of chunks, and those that it had before it was extended."""
        return tuple(-(-n // self.chunk_size) for n in (self.n_samples, *self.former_lengths))

    def samples(self, chunk: int) -> slice:
        """Return the samples of a chunk."""
        return slice(chunk * self.chunk_size, min((chunk + 1) * self.chunk_size, self.n_samples))

    def n_rows(self, chunk: int) -> int:
        """Return the number of samples of a chunk."""
        return min(self.chunk_size, self.n_samples - chunk * self.chunk_size)

    @property
    def former_lengths(self) -> tuple[int, ...]:
        """The numbers of samples that the store had before it was extended."""
        return tuple(self.document.get("extended_from", ()))

    @property
    def shortest(self) -> int:
        """The least number of samples that arrays can have: an extension that was cut off may have left them so."""
        return min([self.n_samples, *self.former_lengths])

    @property
    def device(self) -> str:
        """The kind of device that it was made on."""
        return str(self.document.get("device", _UNSAID["device"]))

    @property
    def policy(self) -> Policy:
        """What it does with samples that fail."""
        names = ("on_error", "on_nonfinite")
        return Policy(*(str(self.document.get(name, _UNSAID[name])) for name in names))

    @property
    def keeps_what_was_made(self) -> bool:
        """Whether a masked sample has what stages made before the one that failed."""
        return self.document.get("masks") == _MASKS_LATER

    @property
    def coords(self) -> dict[str, list[str]]:
        """The values of coordinates, as text."""
        return dict(self.document.get("coords", {}))

    def dim_of(self, coordinate: str) -> str:
        """Return the dim of a coordinate; in older stores all are along dims of their names."""
        told = as_mapping(as_mapping(self.document.get("labels")).get(coordinate))
        return str(told["dims"][0]) if told else coordinate

    def named_coords(self, dims: Iterable[str]) -> list[str]:
        """Return the coordinates along some dims that do not have the name of their dim."""
        return [name for name in self.coords if self.dim_of(name) != name and self.dim_of(name) in set(dims)]

    @property
    def conditions(self) -> dict[str, Any]:
        """What conditions it was made with: their values, or what tells arrays from others."""
        return dict(self.document.get("conditions", {}))

    @property
    def version(self) -> str | None:
        """The version of dasksim that made it."""
        return None if (version := self.document.get("version")) is None else str(version)

    @property
    def packages(self) -> dict[str, Any]:
        """The versions of packages that made it."""
        return as_mapping(self.document.get("packages"))

    @property
    def created(self) -> dict[str, Any]:
        """When it was made, and where, under ``"at"`` and ``"host"``."""
        return as_mapping(self.document.get("created"))

    @functools.cached_property
    def derivations(self) -> dict[str, Derivation]:
        """What was derived, under the names of the first variables."""
        return {key: Derivation(entry) for key, entry in self.document.get("derived", {}).items()}

    @property
    def contexts(self) -> set[str]:
        """The variables that are contexts."""
        return {name for stage in self.stages if stage.kind == "ContextStage" for name in stage.outputs}

    @property
    def all_stages(self) -> tuple[StoredStage, ...]:
        """The stages of what was simulated, and of what was derived."""
        return (*self.stages, *(stage for entry in self.derivations.values() for stage in entry.stages))

    @property
    def complete_derivations(self) -> dict[str, Derivation]:
        """Those that are complete for as many samples as the store has."""
        return {key: entry for key, entry in self.derivations.items() if entry.n_samples == self.n_samples}

    @property
    def visible_variables(self) -> dict[str, StoredVariable]:
        """The variables of the dataset: simulated ones, and derived ones that are complete."""
        complete = [entry.variables for entry in self.complete_derivations.values()]
        return {name: variable for variables in (self.variables, *complete) for name, variable in variables.items()}

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample of the widest variable that was simulated, by which inner chunks are chosen."""
        simulated = self.document.get("of", self.document["variables"]).values()
        return max(variable_of(told).sample_bytes for told in simulated)

    @property
    def alone(self) -> "Record":
        """What it says without derivations."""
        return Record(without(self.document, "derived"))

    def view(self, derivation: str | None) -> "Record | None":
        """Return it as the record of a store of one derivation's variables, or None if there is no such derivation.

        It stays the same while the derivation, or another one, becomes complete.
        """
        if derivation is None:
            return self.alone
        entry = self.derivations.get(derivation)
        if entry is None:
            return None
        # simulated variables are kept beside, since their size decides on inner chunks of derived ones too
        own = {"n_samples": self.n_samples, "coords": {}, "labels": {}, "of": self.document["variables"]}
        return Record({**self.alone.document, **entry.document, **own})

    def with_derivations(self, entries: Mapping[str, Derivation]) -> "Record":
        """Return it with other derivations, or with none."""
        told = {key: entry.document for key, entry in entries.items()}
        return Record({**self.alone.document, **({"derived": told} if told else {})})

    def lengthened(self, n_samples: int, conditions: Mapping[str, Any]) -> "Record":
        """Return it as that of a store of more samples, made with conditions of more rows."""
        before = self.document["n_samples"]
        longer = {"extended_from": [*self.former_lengths, before]} if before < n_samples else {}
        return self._with(n_samples=n_samples, **longer, conditions=dict(conditions))

    def continued(self, wanted: "Record") -> "Record":
        """Return it with what a call may change of it that asks for another one.

        Failures that ended all until now may be masked or drawn again from now on: complete chunks have none.
        """
        told = {**_UNSAID, **self.document}
        told |= {name: wanted.document[name] for name in ("on_error", "on_nonfinite") if told[name] == "raise"}
        variables, asked = told["variables"], wanted.document["variables"]
        if VALID not in variables:
            told["masks"] = wanted.document["masks"]
        # a mask may come later: where it was never written it says that all samples are valid
        if asked.keys() - variables.keys() == {VALID}:
            told["variables"] = {**variables, VALID: asked[VALID]}
        return Record(told)

    def with_changed_stages(self, wanted: "Record") -> "Record":
        """Return it with another one's stages, and its own as former ones."""
        former = [*self.document.get("former_stages", []), self.document["stages"]]
        return self._with(former_stages=former, stages=wanted.document["stages"])

    def differences(self, wanted: "Record") -> list[str]:
        """Return what a call asks for otherwise, stages apart; see :meth:`stage_differences`."""
        names = [name for name in _OF_STORE if name != "labels" or self.has_labels]
        return self._differences(wanted, names)

    def is_same_store(self, other: "Record") -> bool:
        """Whether it is that of another one's store, which may have been extended since."""
        return all(self.document.get(key) == other.document.get(key) for key in _IDENTITY)


def _said(value: Any) -> Any:
    """Return a document without entries that say nothing."""
    if not isinstance(value, dict):
        return value
    return {name: _said(entry) for name, entry in value.items() if entry not in (None, [], {})}
