"""What runs leave behind: append-only records, a locked folder with its manifest, and where it all came from."""

from simgap.records.folder import locked, now, read_manifest, replacing, write_manifest, write_whole
from simgap.records.jsonl import Entry, Records, line_of
from simgap.records.provenance import PACKAGES, provenance, source_digest

__all__ = [
    "Records",
    "Entry",
    "line_of",
    "locked",
    "now",
    "read_manifest",
    "write_manifest",
    "write_whole",
    "replacing",
    "provenance",
    "source_digest",
    "PACKAGES",
]
