"""Large tables are read without the garbage collector, which would visit each entry again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_collector_paused() -> Iterator[None]:
    """Pause the collector in the block; later collections leave out all objects that exist at its end.

    Reading the tables of Debian's x86_64 kernel takes half the time of a processor with it (1.0 s instead of 2.0 s).
    Objects without cycles are still freed when their last reference goes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
