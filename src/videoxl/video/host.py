"""What this program may use of the machine: cores and memory."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CPU_QUOTA_V1 = (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))


def usable_cores() -> int:
    """Number of cores this process may use: its affinity, and at most what a container's quota allows."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on; PYTHON_CPU_COUNT overrides it
        allowed = os.process_cpu_count()
    else:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _cpu_quota()
    return max(1, min(allowed or 1, allowed or 1 if quota is None else math.ceil(quota)))


def _cpu_quota() -> float | None:
    """Cores that a container's quota allows; None without one."""
    if _CPU_QUOTA.is_file():
        quota, _, period = _CPU_QUOTA.read_text().strip().partition(" ")
        return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None
    quota_us, period_us = (read_number(path) for path in _CPU_QUOTA_V1)
    return quota_us / period_us if quota_us and period_us else None  # without a quota the file holds -1


def free_host_bytes() -> int:
    """Bytes of memory that are available, at most what a container's limit leaves."""
    free = _meminfo_available()
    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        limit, used = read_number(limit_file), read_number(used_file)
        if limit is not None and used is not None:
            free = min(free, max(limit - used, 0))
    return free


def _meminfo_available() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().split("\n"):
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def read_number(path: str | Path) -> int | None:
    """The whole number that a file of the kernel holds; None when there is no such file, or no number in it."""
    file = Path(path)
    if not file.is_file():
        return None
    text = file.read_text().strip()
    return int(text) if text.isdigit() else None
