"""Feeds many inputs to a reader: each must be read, or refused in one line, within seconds and bounded memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from harness.core.errors import PinpointError

T = TypeVar("T")
_LONGEST_SECONDS = 5.0
_MOST_KIB = 512 << 10


def fuzz(config: pytest.Config, strategy: st.SearchStrategy[T], reader: Callable[[T], object]) -> None:
    """Feed `--fuzz` inputs to a reader; an error that is not a PinpointError or has several lines is a failure."""

    def check(case: T) -> None:
        began = time.monotonic()
        try:
            reader(case)
        except PinpointError as error:
            if "\n" in str(error).strip():
                pytest.fail(f"more than one line: {error}")
        assert time.monotonic() - began < _LONGEST_SECONDS, "a hang"

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    settings(
        max_examples=config.option.fuzz,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )(given(strategy)(check))()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _MOST_KIB


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
