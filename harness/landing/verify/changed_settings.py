"""Settings and tracing events that a tool changes and may leave changed."""

from __future__ import annotations

from harness.guest.guest import Guest

_FILES = (
    "/proc/sys/debug/kprobes-optimization",
    "/proc/sys/kernel/kptr_restrict",
    "/proc/sys/kernel/printk",
    "/proc/sys/kernel/perf_event_paranoid",
    "/proc/sys/kernel/ftrace_enabled",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/sys/kernel/debug/kprobes/enabled",
    "/sys/kernel/tracing/kprobe_events",
    "/sys/kernel/tracing/uprobe_events",
    "/sys/kernel/tracing/current_tracer",
    "/sys/kernel/tracing/tracing_on",
    "/sys/kernel/tracing/set_ftrace_filter",
)
_NONE = "#### all functions enabled ####"


def read_settings(guest: Guest) -> dict[str, tuple[str, ...]]:
    """The lines of each file that this kernel has."""
    found: dict[str, list[str]] = {}
    for line in guest.run_script(f"grep -sH '' {' '.join(_FILES)}; true").stdout.splitlines():
        path, _, text = line.partition(":")
        if text != _NONE:
            found.setdefault(path, []).append(text)
    return {path: tuple(lines) for path, lines in found.items()}


def describe_changed_settings(before: dict[str, tuple[str, ...]], after: dict[str, tuple[str, ...]]) -> list[str]:
    """What differs, one line for each file."""
    found = []
    for path in sorted({*before, *after}):
        was, now = before.get(path, ()), after.get(path, ())
        if was != now:
            new = [line for line in now if line not in was] or list(now)
            found.append(f"{path} was {_told(was)}, is {_told(tuple(new))}")
    return found


def _told(lines: tuple[str, ...]) -> str:
    return repr("; ".join(" ".join(line.split()) for line in lines)[:200]) if lines else "empty"
