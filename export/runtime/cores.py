"""The CPU cores that an engine may use.

Entries of the python backend hold a copy of this file.
"""

import math
import os
from pathlib import Path

LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""CPU limit of the container: quota and period in microseconds (kernel.org, cgroup-v2)."""


def count(limit: Path = LIMIT) -> int:
    """Count the cores that the process may use: its affinity, at most the container's limit (a pod sees all cores)."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = limit.read_text().split()
    except OSError:
        return cores
    return cores if quota == "max" else min(cores, math.ceil(int(quota) / int(period)))
