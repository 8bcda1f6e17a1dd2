"""The ranges of code between an exclusive load and its conditional store, which no exception may interrupt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence


def exclusive_ranges(
    words: Sequence[int], loads: Callable[[int], bool], stores: Callable[[int], bool]
) -> Iterator[tuple[int, int]]:
    """Yield the numbers of each word that `loads` accepts and of the first word after it that `stores` accepts.

    A load that another load follows before any store is in no range.
    """
    start = None
    for number, word in enumerate(words):
        if loads(word):
            start = number
        elif stores(word) and start is not None:
            yield start, number
            start = None
