"""Bytes that a mutant writes into a process: what a kernel or a process could do wrong."""

from __future__ import annotations

from harness.guest.guest import Guest


def write_process_memory(guest: Guest, pid: int, address: int, code: bytes) -> None:
    """Write bytes at an address of a process, which makes its page a private copy. Raises GuestError."""
    octal = "".join(f"\\{byte:03o}" for byte in code)
    steps = f"printf '{octal}' | dd of=/proc/{pid}/mem bs=1 seek={address} conv=notrunc 2>/dev/null"
    guest.run_script(steps).check()
