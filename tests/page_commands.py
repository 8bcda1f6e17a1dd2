"""The commands of the pages for three readers, in order, with the exit status of each in the prepared directory.

The directory has a kernel tree, a probe module and packages (prepared_directory.py). The tree's last commit has two
bugs: the list of kprobes has wrong addresses, and on parisc a module's stubs jump too far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GATE, CHECK, HUNT = "docs/gate-a-kernel.md", "docs/check-a-probe-module.md", "docs/hunt-a-relocation-bug.md"
# Commits of the tree: before the bugs, and with them.
OLD, NEW = "v6.1", "main"
# What stands in a command for a name that the reader finds.
CELL, OLD_RUN = "parisc/CELL", "results/OLD"


@dataclass(frozen=True)
class Command:
    """One command: its words as the page has them, its exit status, what it prints, and what is typed into it.

    `tree` is the commit that `~/linux` is at.
    """

    line: str
    status: int = 0
    tree: str = NEW
    prints: str = ""
    typed: str = ""


_OWN = "--kernel ~/linux --vm x86_64-fsections"
_FEW = '-k "test_kernel_function or test_module_function or test_illegal_sites"'

COMMANDS: Mapping[str, Sequence[Command]] = {
    GATE: (
        Command(
            f"./pinpoint run {_OWN} {_FEW}",
            status=1,
            prints="test_module_function",
        ),
        Command(
            "./pinpoint build --vm x86_64-debian --kernel linux-image-6.12.deb --kernel linux-headers-6.12.deb",
            prints="6.12",
        ),
        Command(
            "./pinpoint build --vm x86_64-debian --kernel kernel-core.rpm --kernel kernel-modules-core.rpm "
            "--kernel kernel-devel.rpm",
            prints="6.12",
        ),
        Command(f"./pinpoint run {_OWN} {_FEW}", tree=OLD),
        Command(
            f"./pinpoint run {_OWN} {_FEW} --baseline results/latest --confirm 3 --strict", status=1, prints="3 of 3"
        ),
        Command("touch none.toml"),
        Command("./pinpoint compare none.toml results/latest", status=1, prints="test_module_function"),
        Command(f"./pinpoint run {_OWN} {_FEW} --baseline ~/linux/ci/pinpoint-known.toml"),
        Command(
            "./pinpoint bisect --tree ~/linux --good v6.1 --bad HEAD -k test_module_function --vm x86_64-fsections",
            prints="first bad commit: ",
        ),
        Command(f"./pinpoint shell {_OWN}", typed="cat /proc/version\n", prints="Linux version 6.1"),
        Command(f"./pinpoint shell {_OWN} --gdb", typed="print $pc\nquit\n", prints="$1 = "),
    ),
    CHECK: (
        Command("./pinpoint verify my_probe.c --vm x86_64-debian --vm arm64-debian --vm parisc", prints="vfs_read"),
        Command("./pinpoint verify my_probe.ko --vm x86_64-debian --expect vfs_read+0x5", prints="vfs_read+0x5"),
        Command(
            "./pinpoint verify --vm x86_64-debian --with-package bpftrace "
            "--run \"bpftrace -e 'kprobe:vfs_read { @ = count(); }'\" --expect vfs_read+0x0",
            prints="vfs_read+0x0",
        ),
        Command("./pinpoint sites vfs_read --vm x86_64-debian", prints="+0x5"),
        Command(f"./pinpoint verify my_probe.c {_OWN}", tree=OLD, prints="vfs_read"),
        Command("./pinpoint build --vm parisc --module my_probe.c", prints="my_probe"),
        Command("./pinpoint shell --vm parisc", typed="uname -m\n", prints="parisc"),
        Command("./pinpoint verify my_probe.c --vm x86_64-debian --junit verify.xml --json", prints='"vfs_read'),
    ),
    HUNT: (
        Command('./pinpoint run --vm parisc -k "stub or by_hand"'),
        Command('./pinpoint run --vm parisc-fsections -k "stub or another_order"'),
        Command("./pinpoint sites schedule_timeout --vm parisc --boot", prints="100.00 %"),
        Command("./pinpoint verify my_probe.c --vm parisc", prints="vfs_read"),
        Command(f"./pinpoint repro results/latest/bundles/{CELL} --times 5", status=1, prints="5 of 5"),
        Command(
            f"./pinpoint repro results/latest/bundles/{CELL} --gdb", status=1, typed="print $pc\nquit\n", prints="$1 = "
        ),
        Command(
            "./pinpoint bisect --tree ~/linux --good v6.1 --bad HEAD -k stub --vm parisc", prints="first bad commit: "
        ),
        Command(
            f'./pinpoint run --kernel ~/linux --vm parisc -k "stub or by_hand" --baseline {OLD_RUN} --confirm 3',
            tree=OLD,
        ),
    ),
}
