"""The VMs that the matrix is meant to have and that nobody has made yet, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

VMS_WITHOUT_RECIPE: Mapping[str, str] = {
    "parisc-7.0": "Debian never had 7.0 to 7.0.3, which have the defect of `parisc-6.19`; later ones are listed, but "
    "not on the mirror, and have the fix, as `parisc-7.3`",
}
