"""What runs leave behind: append-only records, a locked folder with its manifest, and where it all came from."""

from simgap.records.folder import locked, read_manifest, replacing, write_manifest
from simgap.records.jsonl import Entry, Records, line_of, numbered, record_of
from simgap.records.provenance import PACKAGES, command_line, now, provenance, source_digest

__all__ = [
    "Records",
    "Entry",
    "line_of",
    "numbered",
    "record_of",
    "locked",
    "now",
    "read_manifest",
    "write_manifest",
    "replacing",
    "provenance",
    "command_line",
    "source_digest",
    "PACKAGES",
]
