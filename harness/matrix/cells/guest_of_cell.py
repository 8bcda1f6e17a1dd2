"""The guest of a row, for the cell that begins in it."""

from __future__ import annotations

from collections.abc import Collection
from weakref import WeakKeyDictionary

from harness.guest.guest import Guest
from harness.matrix.cells.cell_phases_and_verdict import CellWatch
from harness.matrix.guests import loss_before_cell
from harness.matrix.guests.fleet import Fleet
from harness.matrix.guests.loss_before_cell import LostBeforeCell
from harness.report import time_accounts

# The name of the last cell that began in each guest.
_latest: WeakKeyDictionary[Guest, str] = WeakKeyDictionary()


def begin_in_guest(fleet: Fleet, watch: CellWatch, builds: Collection[str]) -> Guest:
    """Return the row's guest, ready for a cell that requests these builds of targets.

    If it is lost before the cell begins, the cell gets the evidence, and a later cell gets another guest. Raises
    LostBeforeCell, and what the build or the boot raised.
    """
    cell = watch.identity
    try:
        with fleet.bus.timed(cell.vm, time_accounts.GUEST):
            running = fleet.guest(cell.vm)
    except LostBeforeCell as lost:
        _keep_evidence(watch, lost)
        raise
    watch.start_on(running)
    try:
        loss_before_cell.prepare_for_cell(running, builds, _latest.get(running, ""))
    except Exception as error:
        if isinstance(error, LostBeforeCell):
            _keep_evidence(watch, error)
        fleet.retire(cell.vm, f"before {cell.item_name}: {error}")
        raise
    _latest[running] = cell.item_name
    return running


def _keep_evidence(watch: CellWatch, lost: LostBeforeCell) -> None:
    watch.start_on(lost.guest)
    watch.evidence = lost.evidence
