"""The options that change a run of the matrix. pytest adds them; `./pinpoint run --help` prints them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from harness.core import paths
from harness.landing.sweep.sweep_plan import Depth
from harness.matrix.commands import attach_shell_or_gdb

# `./pinpoint repro` takes a bundle's options only in these bounds.
_MOST_RACES = 999_999


def _races(text: str) -> int:
    """Parse the number of loads and removals in a race. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal() and int(text[:20]) <= _MOST_RACES):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number from 0 to {_MOST_RACES}")
    return int(text)


_DEPTHS = [depth.value for depth in Depth]

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "--vm": {
        "action": "append",
        "default": [],
        "metavar": "NAME",
        "help": "run on this VM; repeat for more, all core VMs without it",
    },
    "--project": {
        "default": None,
        "metavar": "DIR",
        "help": "add your own vm_images/, probes/ and cases/ in DIR to ours (docs/your-own-tree.md)",
    },
    "--accel": {"default": None, "metavar": "NAME", "help": "force an accelerator: kvm or tcg"},
    "--deep": {"action": "store_true", "help": "also run the slow cases, and all mutants of each"},
    "--full": {"action": "store_true", "help": "also run the slowest cases, as --matrix full does; includes --deep"},
    "--test-cells": {
        "action": "store_true",
        "help": "of a VM whose recipe has `test_cells`, run only these; without --vm, run these VMs too, as "
        f"{paths.PROGRAM} test does",
    },
    "--sweep": {
        "choices": _DEPTHS,
        "default": Depth.SAMPLE.value,
        "help": f"how much of each kernel to sweep: {', '.join(_DEPTHS)} (default: {Depth.SAMPLE.value})",
    },
    "--schedules": {
        "choices": ("sample", "all"),
        "default": "sample",
        "help": "play a sample of the schedules of loading and removal, or all (default: sample)",
    },
    "--schedule": {
        "action": "append",
        "default": [],
        "metavar": "LINE",
        "help": 'play this schedule, for example "open remove read"; repeat for more',
    },
    "--stress": {
        "type": _races,
        "default": 40,
        "metavar": "N",
        "help": "number of loads and removals in a race (default: 40)",
    },
    "--loader": {
        "default": None,
        "metavar": "CMD",
        "help": "run the pinning cases with this loader, a file of the host or a program of the guest, in the place of "
        "ours (docs/foreign-loaders.md)",
    },
    "--crash-triggers": {
        "choices": ("sample", "all"),
        "default": "sample",
        "help": "fire a sample of the crash triggers, or all (default: sample)",
    },
    "--as-honest": {"action": "store_true", "help": "judge mutants as honest cells: a caught mutant fails"},
    "--at-failure": {
        "choices": attach_shell_or_gdb.WAYS,
        "help": "attach a shell or gdb to the guest of the first cell that fails; needs -s",
    },
    "--debug-symbols": {
        "action": "store_true",
        "help": "fetch the debug package of each Debian kernel, some 800 MB, once: its symbols, which do not come from "
        "kallsyms, confirm those of the kernel",
    },
    "--shards": {
        "type": int,
        "default": 1,
        "metavar": "N",
        "help": "with -n: run each row on N guests in parallel (default: from cores and rows)",
    },
    "--pinpoint-hosts": {
        "default": None,
        "metavar": "FILE",
        "help": f"the option --hosts of {paths.PROGRAM} run, for pytest itself: pytest-testinfra has a --hosts, too",
    },
    "--scheduler": {
        "default": None,
        "metavar": "tls://HOST:PORT",
        "help": "run rows on the hosts of this Dask cluster (docs/hosts.md)",
    },
    "--scheduler-tls": {
        "default": None,
        "metavar": "DIR",
        "help": "with --scheduler: the directory of ca.pem, cert.pem and key.pem",
    },
    "--shard": {
        "default": None,
        "metavar": "I/N",
        "help": f"run only share I of N of the cells, on one of N machines; {paths.PROGRAM} merge joins the results",
    },
    "--kernel-mutant": {
        "type": int,
        "default": 0,
        "metavar": "N",
        "help": "switch on bug N in kernels that are built with the kernel mutants (docs/kernel-mutants.md)",
    },
    "--ktap": {"default": None, "metavar": "FILE", "help": "write the results to FILE as KTAP while cells end"},
    "--into": {"default": None, "metavar": "DIR", "help": "write the run's directory of results into DIR"},
}
