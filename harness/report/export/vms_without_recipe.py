"""The VMs that the matrix is meant to have and that nobody has made yet, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

VMS_WITHOUT_RECIPE: Mapping[str, str] = {
    "parisc-6.18": "Debian's source package of 6.18 is listed but not on the mirror; `parisc-6.12` has the same rule",
    "parisc-7.0": "Debian's source package of 7.0 is listed but not on the mirror; `parisc-merged-text` has its defect",
    "sh4": "no kprobe runs its handler in any kernel, and Debian 12's gcc for SuperH is broken (docs/findings.md)",
}
