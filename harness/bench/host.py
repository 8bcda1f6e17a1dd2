"""Facts of the host on which figures are measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.guest.accelerator import choose, qemu_version_line
from harness.images.vm_recipe import Recipe


def host_facts(recipes: Sequence[Recipe]) -> Mapping[str, object]:
    """Cores, memory in GiB, processor, kernel, load of the last minute; accelerator and QEMU of each VM."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "processor": _processor(Path("/proc/cpuinfo").read_text()),
        "kernel": platform.release(),
        "load": load_average(),
        "accelerators": {recipe.name: choose(recipe.architecture).name for recipe in recipes},
        "qemu": {recipe.name: qemu_version_line(recipe.architecture.qemu_machine.qemu) for recipe in recipes},
    }


def load_average() -> float:
    """The average number of running and runnable processes over the last minute."""
    return round(os.getloadavg()[0], 2)


def _processor(cpuinfo: str) -> str:
    """The first processor's model name from /proc/cpuinfo, or the machine's name if it has none."""
    named = (line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name"))
    return next(named, platform.machine())
