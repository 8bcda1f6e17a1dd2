"""Registers and removes uprobes while processes start, hit them and end: a bounded number of rounds, without gates."""

from __future__ import annotations

from dataclasses import dataclass

from harness.userspace.probe_run import Uprobes
from harness.userspace.user_file import UserFile
from harness.userspace.ways import EVENTS

ROUNDS = 30
_GROUP = "pinpoint_toggled"
_ENABLE = f"/sys/kernel/tracing/events/{_GROUP}/enable"


@dataclass(frozen=True)
class StressCounts:
    """The number of rounds that were run, and the number of hits that the kernel counted in all of them."""

    rounds: int
    hits: int


def toggle_uprobe(uprobes: Uprobes, file: UserFile, symbol: str, rounds: int = ROUNDS) -> StressCounts:
    """Define, enable, disable and remove a uprobe `rounds` times; in each round a program starts and ends meanwhile."""
    offset = file.offset(file.site(symbol))
    runner = uprobes.file("pinpoint_runner").path
    enable = "true" if uprobes.mutant.unarmed else f"echo 1 >{_ENABLE}"
    script = f"""
total=0; n=0
while [ $n -lt {rounds} ]
do
    echo 'p:{_GROUP}/leaf {file.path}:{offset:#x}' >>{EVENTS} || exit 1
    printf 'call {symbol} 5\\nfork\\ncall {symbol} 5\\nexit\\n' | {runner} >/dev/null & started=$!
    {enable} || exit 2
    sleep 0.01
    echo 0 >{_ENABLE}
    {enable} || exit 3
    wait $started || exit 4
    hits=$(sed -n 's/.* leaf  *//p' /sys/kernel/tracing/uprobe_profile)
    echo 0 >{_ENABLE}
    echo '-:{_GROUP}/leaf' >>{EVENTS} || exit 5
    total=$((total + hits)); n=$((n + 1))
done
echo $n $total
"""
    played, hits = uprobes.guest.script(script).check().stdout.split()
    return StressCounts(int(played), int(hits))
