"""Where a store keeps what it says of itself: in documents of its own, of which the root has a copy.

Its record stands in the attributes of the group ``_dasksim``, and what it says of a derivation in those of the group
that holds the derivation's receipts, so that several can be made at once; what an audit found of a run, in those of a
group of its own. All have a checksum. The copy in the root is
for people, other programs and older versions; others may change it, as xarray does that adds a variable. It counts
where the document within is missing, as in stores of older versions, or damaged.
"""

import json
from collections.abc import Mapping
from typing import Any

from dasksim._core.audits import AuditOutcome
from dasksim.store._checksums import checksum_of
from dasksim.store._entries import Derivation
from dasksim.store._location import ROOT, Location
from dasksim.store._record import ATTRIBUTE, Record

__all__ = [
    "AUDITS",
    "FOLDER",
    "OWN",
    "folder_of",
    "group_document",
    "is_group",
    "keep_audit",
    "keep_entry",
    "keep_record",
    "kept_audits",
    "kept_entries",
    "kept_entry",
    "kept_record",
]

#: Path of the group that holds a store's receipts.
FOLDER = "_dasksim"

#: Path of the group that holds what audits found, a group for each run.
AUDITS = f"{FOLDER}/audits"

#: Key of the document that holds the record.
OWN = f"{FOLDER}/{ROOT}"

_CHECKSUM = "crc32c"


def folder_of(derivation: str | None) -> str:
    """Return the path of the group that holds the receipts of a derivation, or of a store itself."""
    return FOLDER if derivation is None else f"{FOLDER}/derived/{derivation}"


def kept_record(location: Location) -> dict[str, Any] | None:
    """Return the record that a store keeps within, derivations left out, or None if it is missing or damaged."""
    return _told(location.read(OWN))


def kept_entry(location: Location, derivation: str) -> dict[str, Any] | None:
    """Return what a store keeps of a derivation, or None if it is missing or damaged."""
    return _told(location.read(f"{folder_of(derivation)}/{ROOT}"))


def kept_entries(location: Location) -> dict[str, dict[str, Any] | None]:
    """Return what a store keeps of all derivations that have a group, in no certain order."""
    keys = [key for key in location.children(f"{FOLDER}/derived") if key != ROOT]
    return {key: kept_entry(location, key) for key in keys}


def keep_record(location: Location, record: Record) -> None:
    """Write a record into a store, and entries of derivations that it lacks, as a store of an older version does."""
    for number, (key, entry) in enumerate(record.derivations.items()):
        if kept_entry(location, key) is None:
            keep_entry(location, key, entry.placed(number))
    location.write(OWN, group_document(record.alone.document))


def keep_entry(location: Location, derivation: str, entry: Derivation) -> None:
    """Write what a store says of a derivation."""
    location.create(f"{FOLDER}/derived/{ROOT}", group_document())
    location.write(f"{folder_of(derivation)}/{ROOT}", group_document(entry.document))


def keep_audit(location: Location, chunk: int, outcome: AuditOutcome) -> None:
    """Write what was found of a run that began with a chunk, in place of what was found of one before it."""
    location.create(f"{AUDITS}/{ROOT}", group_document())
    location.write(f"{AUDITS}/c{chunk}/{ROOT}", group_document(outcome.document))


def kept_audits(location: Location) -> list[AuditOutcome]:
    """Return what was found of all runs; what is damaged is left out."""
    documents = (_told(location.read(f"{AUDITS}/{key}/{ROOT}")) for key in location.children(AUDITS) if key != ROOT)
    found = (AuditOutcome.of_document(document) for document in documents if document is not None)
    return [outcome for outcome in found if outcome is not None]


def group_document(told: Mapping[str, Any] | None = None) -> bytes:
    """Return the document of a group that tells something, or nothing."""
    # told as a text within the document, so that its checksum holds however others format what is around it
    text = json.dumps(told)
    attributes = {} if told is None else {ATTRIBUTE: text, _CHECKSUM: checksum_of(text.encode())}
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=2).encode()


def is_group(content: bytes | None) -> bool:
    """Whether a document is that of a group."""
    try:
        document = json.loads(content or b"")
    except (ValueError, RecursionError):
        # brackets of a stranger may be nested deeper than the parser can go
        return False
    is_node = isinstance(document, dict) and (document.get("zarr_format"), document.get("node_type")) == (3, "group")
    return is_node and isinstance(document.get("attributes", {}), dict)


def _told(content: bytes | None) -> dict[str, Any] | None:
    try:
        attributes = json.loads(content or b"")["attributes"]
        text = attributes[ATTRIBUTE]
        told = json.loads(text) if checksum_of(text.encode()) == attributes[_CHECKSUM] else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return told if isinstance(told, dict) else None
