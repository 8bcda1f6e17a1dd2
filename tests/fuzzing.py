"""Feeds many inputs to a reader: each must be read, or refused in one line, within seconds and bounded memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from harness.core.errors import PinpointError

T = TypeVar("T")
LONGEST_SECONDS = 5.0
MOST_MIB = 512
# The name of a test's measurements among its user properties, which pytest passes from workers to the controller.
PROPERTY = "fuzz"


@dataclass
class Measured:
    """What the inputs of one test cost: their number, the processor seconds of the slowest, and memory in MiB.

    `tracebacks` counts inputs that a reader neither read nor refused in one line, `hangs` those that took too long;
    hypothesis repeats such an input to make it smaller. `peak_mib` is the peak of the whole process, `grown_mib` how
    far it is above what the process used before.
    """

    inputs: int = 0
    tracebacks: int = 0
    hangs: int = 0
    slowest_seconds: float = 0.0
    peak_mib: float = 0.0
    grown_mib: float = 0.0


@dataclass(frozen=True)
class Fuzz:
    """Feeds `--fuzz` inputs to the readers of one test."""

    test: pytest.Item

    def __call__(self, strategy: st.SearchStrategy[T], reader: Callable[[T], object]) -> None:
        """Feed inputs to a reader; an error that is not a PinpointError or has several lines is a failure."""
        measured = Measured()

        def check(case: T) -> None:
            measured.inputs += 1
            began = time.process_time()
            try:
                _read_or_refused(reader, case)
            except BaseException:
                measured.tracebacks += 1
                raise
            seconds = time.process_time() - began
            measured.slowest_seconds = max(measured.slowest_seconds, seconds)
            measured.hangs += seconds >= LONGEST_SECONDS
            assert seconds < LONGEST_SECONDS, "a hang"

        before = _restarted_peak()
        try:
            settings(
                max_examples=self.test.config.option.fuzz,
                deadline=None,
                database=None,
                phases=(Phase.explicit, Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )(given(strategy)(check))()
        finally:
            measured.peak_mib = _memory_mib("VmHWM")
            measured.grown_mib = measured.peak_mib - before
            self.test.user_properties.append((PROPERTY, asdict(measured)))
        assert measured.grown_mib < MOST_MIB


def _read_or_refused(reader: Callable[[T], object], case: T) -> None:
    try:
        reader(case)
    except PinpointError as error:
        if "\n" in str(error).strip():
            pytest.fail(f"more than one line: {error}")


def _restarted_peak() -> float:
    """Set this process's peak of memory to what it uses now, and return that in MiB."""
    # Documentation/filesystems/proc.rst, 6.1: 5 resets VmHWM.
    Path("/proc/self/clear_refs").write_text("5")
    return _memory_mib("VmRSS")


def _memory_mib(name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


def mutations(seed: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy that changes bytes and words of the seed, copies, cuts and moves parts, and cuts its end."""
    place = st.integers(0, max(0, len(seed) - 1))
    word = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1])
    change = st.one_of(
        st.tuples(st.just("bytes"), place, st.binary(max_size=16)),
        st.tuples(st.just("word"), place, st.tuples(word, st.sampled_from([1, 2, 4, 8]))),
        st.tuples(st.just("copy"), place, st.tuples(place, st.integers(0, 256))),
        st.tuples(st.just("drop"), place, st.integers(0, 256)),
        st.tuples(st.just("insert"), place, st.binary(max_size=64)),
        st.tuples(st.just("end"), place, st.none()),
    )
    return st.lists(change, min_size=1, max_size=8).map(lambda changes: _changed(seed, changes))


def _changed(seed: bytes, changes: list[tuple[str, int, object]]) -> bytes:
    content = bytearray(seed)
    for change in changes:
        match change:
            case ("bytes", at, bytes(new)):
                content[at : at + len(new)] = new
            case ("word", at, (int(value), int(width))):
                content[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
            case ("copy", at, (int(source), int(size))):
                content[at : at + size] = content[source : source + size]
            case ("drop", at, int(size)):
                del content[at : at + size]
            case ("insert", at, bytes(new)):
                content[at:at] = new
            case ("end", at, None):
                del content[at:]
    return bytes(content)
