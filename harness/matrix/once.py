"""Something made once, however many threads ask for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Once(Generic[K, V]):
    """Values by key; the first to ask makes one, the others wait. What its making raised is raised to each of them."""

    def __init__(self) -> None:
        self._values: dict[K, Future[V]] = {}

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`, made by `make` if nobody has yet."""
        mine: Future[V] = Future()
        value = self._values.setdefault(key, mine)
        if value is mine:
            try:
                mine.set_result(make())
            except BaseException as error:
                mine.set_exception(error)
        return value.result()
