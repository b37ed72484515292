"""How many cores there are for this process."""

import math
import os
from pathlib import Path

LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""A container's: microseconds of CPU time, and of the period in which it may use them (kernel.org, cgroup-v2)."""


def count(limit: Path = LIMIT) -> int:
    """Those that it may run on, and no more than a container's limit is worth: a pod sees all cores of its node."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = limit.read_text().split()
    except OSError:
        return cores
    return cores if quota == "max" else min(cores, math.ceil(int(quota) / int(period)))
