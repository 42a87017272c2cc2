"""Cores and memory that this program may use."""

from __future__ import annotations

import os

import pytest

from videoxl.video import host


@pytest.fixture
def quota(monkeypatch, tmp_path):
    """Sets what a container's files say."""
    monkeypatch.setattr(host, "_CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(host, "_CPU_QUOTA_V1", (tmp_path / "cpu.cfs_quota_us", tmp_path / "cpu.cfs_period_us"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)

    def write(**files: str) -> None:
        for name, text in files.items():
            (tmp_path / name.replace("cpu_", "cpu.")).write_text(text + "\n")

    return write


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu_max": "max 100000"}, 8),
        ({"cpu_max": "150000 100000"}, 2),
        ({"cpu_max": "5000 100000"}, 1),
        ({"cpu_max": "1600000 100000"}, 8),
        ({"cpu_cfs_quota_us": "300000", "cpu_cfs_period_us": "100000"}, 3),
        ({"cpu_cfs_quota_us": "-1", "cpu_cfs_period_us": "100000"}, 8),
    ],
    ids=str,
)
def test_cores_are_those_of_the_affinity_and_of_the_quota(quota, files, cores):
    quota(**files)
    assert host.usable_cores() == cores


def test_affinity_counts(monkeypatch, quota):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    assert host.usable_cores() == 1


def test_memory_that_is_free(monkeypatch):
    assert host.free_host_bytes() > 2**20
    monkeypatch.setattr(host, "read_number", lambda path: 100 if "max" in str(path) or "limit" in str(path) else 30)
    assert host.free_host_bytes() == 70
