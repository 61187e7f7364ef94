"""Helpers that the tests of all readers share."""

import gzip
from datetime import datetime

import pytest

from trainers.data.readers.base import ReadingReport


@pytest.fixture
def write(tmp_path):
    """Writes a file, gzipped if its name says so; returns its path."""

    def call(name, content):
        path = tmp_path / name
        data = content.encode() if isinstance(content, str) else content
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return path

    return call


@pytest.fixture
def read(tmp_path):
    """Reads a source; returns the log as tuples, the items as dictionaries by id, and the report."""

    def call(reader, latest=datetime(2026, 1, 1)):
        report = ReadingReport()
        scratch = tmp_path / f"scratch-{len(list(tmp_path.glob('scratch-*')))}"
        raw = reader.read(scratch, report, latest)
        log = raw.log.collect()
        # every row that was read is kept, or dropped and counted
        assert report.read["interactions"] == log.height + report.dropped("interactions")
        items = None
        if raw.items is not None:
            rows = raw.items.collect().rows(named=True)
            assert report.read["items"] == len(rows) + report.dropped("items")
            items = {row["item_id"]: row for row in rows}
        return log.rows(), items, report

    return call


@pytest.fixture
def examples_of():
    """The examples that a report gives for a kind and a reason, as one text."""

    def call(report, kind, reason):
        return "\n".join(report.to_dict()["dropped"][kind][reason]["examples"])

    return call
