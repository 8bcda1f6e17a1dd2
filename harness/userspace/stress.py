"""Registers and removes uprobes while processes start, hit them and end: a bounded number of rounds, without gates."""

from __future__ import annotations

from dataclasses import dataclass

from harness.guest.result import parsing_guest_text
from harness.landing.landing_judgment import Missed
from harness.userspace.uprobes_fixture import Uprobes
from harness.userspace.user_file import UserFile
from harness.userspace.ways import EVENTS

_GROUP = "pinpoint_toggled"
# The script's exit status if the program in a round failed or died.
_PROGRAM_FAILED = 4
_ENABLE = f"/sys/kernel/tracing/events/{_GROUP}/enable"


class ProgramFailed(Missed):
    """A program that hits a uprobe did not end as it does without one; `by_signal` is true if SIGSEGV ended it."""

    def __init__(self, what: str, *, by_signal: bool) -> None:
        self.by_signal = by_signal
        super().__init__(what)


@dataclass(frozen=True)
class RoundAndHitCounts:
    """The number of rounds that were run, and the number of hits that the kernel counted in all of them."""

    rounds: int
    hits: int


def toggle_uprobe(uprobes: Uprobes, file: UserFile, symbol: str, rounds: int) -> RoundAndHitCounts:
    """Define, enable, disable and remove a uprobe `rounds` times.

    In each round a program starts, loads and unloads the file, forks, executes another program and ends, while a thread
    of it hits. Raises ProgramFailed.
    """
    lines = f"""spin {symbol}
again {file.guest_path}
call +{symbol} 5
close 0
fork
call {symbol} 5
exit
exec {uprobes.target_file("pinpoint_runner").guest_path}
spin {symbol}
call {symbol} 5
exit
"""
    offset = file.offset_of_site(file.site(symbol))
    runner = uprobes.target_file("pinpoint_runner").guest_path
    enable = "true" if uprobes.mutant.reports_without_registering else f"echo 1 >{_ENABLE}"
    script = f"""
lines=/tmp/pinpoint_lines
cat >$lines <<'END'
{lines}END
total=0; n=0
while [ $n -lt {rounds} ]
do
    echo 'p:{_GROUP}/leaf {file.guest_path}:{offset:#x}' >>{EVENTS} || exit 1
    {runner} <$lines >/dev/null & started=$!
    {enable} || exit 2
    sleep 0.01
    echo 0 >{_ENABLE}
    {enable} || exit 3
    wait $started; status=$?
    hits=$(sed -n 's/.* leaf  *//p' /sys/kernel/tracing/uprobe_profile)
    echo 0 >{_ENABLE}
    echo '-:{_GROUP}/leaf' >>{EVENTS} || exit 5
    [ $status -eq 0 ] || exit {_PROGRAM_FAILED}
    total=$((total + hits)); n=$((n + 1))
done
rm $lines
echo $n $total
"""
    result = uprobes.guest.run_script(script)
    if result.rc == _PROGRAM_FAILED:
        printed = result.stderr.strip()
        raise ProgramFailed(
            f"the program that hits {symbol} failed: {printed or 'it printed nothing'}",
            by_signal="Segmentation fault" in printed,
        )
    with parsing_guest_text("the counts of uprobe hits"):
        played, hits = result.check().stdout.split()
        return RoundAndHitCounts(int(played), int(hits))
