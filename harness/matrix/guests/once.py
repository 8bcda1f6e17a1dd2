"""Something made once, however many threads ask for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Once(Generic[K, V]):
    """Values by key; the first to ask makes one, the others wait. What its making raised is raised to each of them.

    `passing` is what may go well the next time: it is raised to those who wait, and who asks later makes a new one.
    """

    def __init__(self, passing: tuple[type[BaseException], ...] = ()) -> None:
        self._values: dict[K, Future[V]] = {}
        self._passing = passing

    def forget(self, key: K) -> None:
        """Who asks later makes a new one."""
        self._values.pop(key, None)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`, made by `make` if nobody has yet."""
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
