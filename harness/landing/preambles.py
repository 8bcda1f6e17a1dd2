"""Symbols of what stands in front of functions: padding, or a type's hash, where nothing ever runs."""

from __future__ import annotations

# Named after the function behind (objtool --prefix, since 6.2; clang's kernel CFI). A probe there is refused.
PREAMBLES = ("__cfi_", "__pfx_")
