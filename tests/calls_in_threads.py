"""Runs a call that may never end, so that a test can fail instead of waiting for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

_MOST_SECONDS = 30.0


def error_of_call_that_ends(call: Callable[[], object], *kinds: type[Exception]) -> Exception:
    """Return the error of one of these kinds that a call raises; fail unless it ends by itself with one."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            call()
        except kinds as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_MOST_SECONDS)
    assert not thread.is_alive()
    return errors[0]
