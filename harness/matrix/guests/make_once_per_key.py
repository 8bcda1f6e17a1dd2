"""Values that are made only once, however many threads request them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Once(Generic[K, V]):
    """Values by key. The first request makes the value and the others wait; an error is raised in each of them.

    `passing` are errors that may not occur again. They are raised in the waiting requests, and a later one tries again.
    """

    def __init__(self, passing: tuple[type[BaseException], ...] = ()) -> None:
        self._values: dict[K, Future[V]] = {}
        self._passing = passing

    def forget(self, key: K) -> None:
        """Forget a value; the next request makes a new one."""
        self._values.pop(key, None)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of `key`, made by `make` at the first request."""
        mine: Future[V] = Future()
        value = self._values.setdefault(key, mine)
        if value is mine:
            try:
                mine.set_result(make())
            except BaseException as error:
                if isinstance(error, self._passing):
                    self.forget(key)
                mine.set_exception(error)
        return value.result()
