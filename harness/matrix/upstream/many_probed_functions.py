"""The functions that a selftest probes which takes the first ones of /proc/kallsyms that the kernel accepts."""

from __future__ import annotations

import shlex

from harness.guest.guest import Guest
from harness.matrix.upstream.ftrace_selftest import place_in_guest

# How many functions each of these tests probes.
PROBED_FUNCTIONS = {"kprobe/multiple_kprobes.tc": 256}
# The test's own pipeline without enabling anything, with the offset of its `case` or another one.
_REGISTERED = r"""
cd /sys/kernel/tracing && test -f kprobe_events || exit 0
OFFS={offset}
[ -n "$OFFS" ] || eval "$(sed -n '/^case/,/^esac/p' {test})"
[ -n "$OFFS" ] || exit 1
count=0
for name in $(grep -i ' t ' /proc/kallsyms | cut -f3 -d' ' | grep -v '\..*'); do
  echo "p $name+$OFFS" 2>/dev/null >>kprobe_events && count=$((count + 1))
  [ $count -eq {count} ] && break
done
sed 's/.* //; s/+.*//' kprobe_events
echo >kprobe_events
"""
_SECONDS = 60.0


def list_probed_functions(guest: Guest, test: str, offset: int | None = None) -> list[str]:
    """Return the functions that a test of PROBED_FUNCTIONS registers probes on, at its own offset or another one.

    The probes are registered and not enabled, and then removed. Raises GuestError.
    """
    script = _REGISTERED.format(
        test=shlex.quote(place_in_guest(test)),
        count=PROBED_FUNCTIONS[test],
        offset="" if offset is None else offset,
    )
    return guest.run_script(script, guest.scaled_deadline(_SECONDS)).check().stdout.split()
