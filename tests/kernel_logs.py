"""Complaints in the form that kernels print (Linux 6.1: kernel/, mm/, arch/), for tests of the complaint reader."""

from __future__ import annotations

from harness.verdict.complaint_kinds import ComplaintKind


def printed(text: str, start: float = 12.5, caller: str = "") -> str:
    """Return the lines as printk prints them on a console, a millisecond apart."""
    lines = text.strip("\n").split("\n")
    return "".join(f"[{start + index / 1000:12.6f}]{caller} {line}\n" for index, line in enumerate(lines))


HEALTHY = printed(
    """
Linux version 6.1.0-32-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14) 12.2.0, GNU ld 2.40) #1 SMP
Command line: console=ttyS0 panic=-1 oops=panic
x86/fpu: x87 FPU will use FXSAVE
Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible via Spectre v2 BHB attacks!
ACPI: 1 ACPI AML tables successfully acquired and loaded
ACPI BIOS Warning (bug): 32/64X length mismatch in FADT/Gpe0Block: 128/32 (20220331/tbfadt-564)
rcu: Hierarchical RCU implementation.
rcu: 	RCU calculated value of scheduler-enlistment delay is 25 jiffies.
NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.
Kprobe smoke test: started
Kprobe smoke test: passed successfully
debug: unmapping init memory 00000000e0000000-00000000e0200000
pci 0000:00:1f.0: quirk: [io  0x0600-0x067f] claimed by ICH6 ACPI/GPIO/TCO
systemd[1]: Starting BUG: not a complaint, this stands in the middle of a record
EXT4-fs (vda): mounted filesystem with ordered data mode. Quota mode: none.
virtio_net virtio0 eth0: renamed from enp0s2
pinpoint_target: loading out-of-tree module taints kernel.
process '/bin/busybox' started with executable stack
Freeing unused kernel image (initmem) memory: 2796K
oom_reaper: ready
watchdog: Delayed init of the lockup detector failed: -19
reboot: Power down
"""
)

SLUB_WARNING = """
------------[ cut here ]------------
WARNING: CPU: 0 PID: 0 at mm/slub.c:5134 kmem_cache_init+0x60/0x160
Modules linked in:
CPU: 0 PID: 0 Comm: swapper Not tainted 6.1.192-pinpoint #1
Hardware name: 9000/778/B160L

     YZrvWESTHLNXBCVMcbcbcbcbOGFRQPDI
PSW: 00000000000001001011111100001110 Not tainted
r00-03  0004bf0e 10b1c000 10a2a1c4 10b1c300
r28-31  00000000 00000001 10b1c340 10a2a1c4
sr00-03  00000000 00000000 00000000 00000000

IASQ: 00000000 00000000 IAOQ: 10a2a1e8 10a2a1ec
 IIR: 03ffe01f    ISR: 00000000  IOR: 00000000
 CPU:        0   CR30: 10b18000 CR31: 00000000
 IAOQ[0]: kmem_cache_init+0x60/0x160
 IAOQ[1]: kmem_cache_init+0x64/0x160
 RP(r2): kmem_cache_init+0x3c/0x160
Backtrace:
 [<10a1a8d4>] start_kernel+0x2e4/0x6c8
 [<10a1e0a4>] start_parisc+0xb4/0xe4

---[ end trace 0000000000000000 ]---
"""

PARISC_FAULT = """
Backtrace:
 [<10158f30>] insmod_init+0x10/0x40 [pinpoint_target]
 [<10100e1c>] do_one_initcall+0x5c/0x1e4


Kernel Fault: Code=15 (Data TLB miss fault) at addr 00000004
CPU: 0 PID: 88 Comm: insmod Tainted: G           O       6.1.192-pinpoint #1
Hardware name: 9000/778/B160L

     YZrvWESTHLNXBCVMcbcbcbcbOGFRQPDI
PSW: 00000000000001001111111100001111 Tainted: G           O
r00-03  0004ff0f 11c7a2c0 00a7c044 11c7a340

IASQ: 00000000 00000000 IAOQ: 00a7c048 00a7c04c
 IIR: 0f80109c    ISR: 00000000  IOR: 00000004
 IAOQ[0]: bad_init+0x20/0x50 [pinpoint_target]
 IAOQ[1]: bad_init+0x24/0x50 [pinpoint_target]
 RP(r2): bad_init+0x1c/0x50 [pinpoint_target]
"""

PARISC_DIE = r"""
      _______________________________
     < Your System ate a SPARC! Gah! >
      -------------------------------
             \   ^__^
                 (__)\       )\/\
                  U  ||----w |
                     ||     ||
insmod (pid 91): Unknown kernel breakpoint (code 9)
CPU: 0 PID: 91 Comm: insmod Not tainted 6.1.192-pinpoint #1

     YZrvWESTHLNXBCVMcbcbcbcbOGFRQPDI
PSW: 00000000000001001111111100001111 Not tainted
IASQ: 00000000 00000000 IAOQ: 10158f30 10158f34
 IAOQ[0]: hex2bin+0x8/0xa0
Backtrace:
 [<10100e1c>] do_one_initcall+0x5c/0x1e4
"""

PARISC_USER_FAULT = """
do_page_fault() command='false' type=15 address=0x00000000 in busybox[10000+1c3000]
trap #15: Data TLB miss fault, vm_start = 0x00010000, vm_end = 0x001d3000
CPU: 0 PID: 93 Comm: false Not tainted 6.1.192-pinpoint #1

     YZrvWESTHLNXBCVMcbcbcbcbOGFRQPDI
PSW: 00000000000001000000000000001111 Not tainted
IASQ: 000001f1 000001f1 IAOQ: 00012a4b 00012a4f
 IIR: 0f401280    ISR: 000001f1  IOR: 00000000
false (pid 94): Unaligned data reference (code 28) at 00012a4b
"""

X86_OOPS = """
BUG: kernel NULL pointer dereference, address: 0000000000000008
#PF: supervisor read access in kernel mode
#PF: error_code(0x0000) - not-present page
PGD 0 P4D 0
Oops: 0000 [#1] PREEMPT SMP NOPTI
CPU: 0 PID: 211 Comm: insmod Tainted: G           OE      6.1.0-32-amd64 #1  Debian 6.1.129-1
Hardware name: QEMU Standard PC (Q35 + ICH9, 2009), BIOS 1.16.2-debian-1.16.2-1 04/01/2014
RIP: 0010:bad_init+0x12/0x1000 [pinpoint_target]
Code: Unable to access opcode bytes at 0xffffffffc0332fe8.
RSP: 0018:ffffb0a2c02cfc28 EFLAGS: 00010246
Call Trace:
 <TASK>
 ? __die_body.cold+0x1a/0x1f
 do_one_initcall+0x56/0x220
 </TASK>
Modules linked in: pinpoint_target(OE+) virtio_net
CR2: 0000000000000008
---[ end trace 0000000000000000 ]---
RIP: 0010:bad_init+0x12/0x1000 [pinpoint_target]
"""

X86_BUG_ON = """
------------[ cut here ]------------
kernel BUG at mm/vmalloc.c:2702!
invalid opcode: 0000 [#1] PREEMPT SMP NOPTI
CPU: 1 PID: 33 Comm: kworker/1:1 Not tainted 6.1.0-32-amd64 #1
RIP: 0010:__vunmap+0x2a/0x280
Call Trace:
 <TASK>
 process_one_work+0x1c7/0x380
 </TASK>
---[ end trace 0000000000000000 ]---
"""

LIST_CORRUPTION = """
list_del corruption. prev->next should be ffff8881037e2a00, but was dead000000000100. (prev=ffff88810380)
------------[ cut here ]------------
kernel BUG at lib/list_debug.c:53!
invalid opcode: 0000 [#1] PREEMPT SMP KASAN
---[ end trace 0000000000000000 ]---
"""

ARM64_OOPS = """
Unable to handle kernel paging request at virtual address dead000000000108
Mem abort info:
  ESR = 0x0000000096000044
  EC = 0x25: DABT (current EL), IL = 32 bits
[dead000000000108] address between user and kernel address ranges
Internal error: Oops: 0000000096000044 [#1] SMP
Modules linked in: pinpoint_target(OE)
CPU: 0 PID: 201 Comm: rmmod Tainted: G           OE      6.1.0-32-arm64 #1  Debian 6.1.129-1
pstate: 60400005 (nZCv daif +PAN -UAO -TCO -DIT -SSBS BTYPE=--)
pc : __unregister_kprobe_bottom+0x2c/0xa0
lr : unregister_kprobes+0x7c/0xb0
Call trace:
 __unregister_kprobe_bottom+0x2c/0xa0
 unregister_kprobes+0x7c/0xb0
Code: f9400800 b4000100 f9400461 (f9000420)
---[ end trace 0000000000000000 ]---
"""

KASAN = """
==================================================================
BUG: KASAN: use-after-free in pinpoint_read+0x3c/0x90 [pinpoint_target]
Read of size 8 at addr ffff88800a3b1c00 by task cat/187

CPU: 0 PID: 187 Comm: cat Tainted: G    B      O       6.1.192-pinpoint #1
Call Trace:
 <TASK>
 dump_stack_lvl+0x34/0x48
 print_report+0x172/0x4a0
 </TASK>

Allocated by task 180:
 kasan_save_stack+0x33/0x60

Memory state around the buggy address:
 ffff88800a3b1b00: fc fc fc fc fc fc fc fc fc fc fc fc fc fc fc fc
>ffff88800a3b1c00: fa fb fb fb fb fb fb fb fb fb fb fb fb fb fb fb
                   ^
==================================================================
"""

KASAN_NULL = """
general protection fault, probably for non-canonical address 0xdffffc0000000001: 0000 [#1] PREEMPT SMP KASAN
KASAN: null-ptr-deref in range [0x0000000000000008-0x000000000000000f]
CPU: 0 PID: 187 Comm: cat Not tainted 6.1.192-pinpoint #1
RIP: 0010:pinpoint_read+0x3c/0x90
Call Trace:
 vfs_read+0x12a/0x330
---[ end trace 0000000000000000 ]---
"""

CIRCULAR = """
======================================================
WARNING: possible circular locking dependency detected
6.1.192-pinpoint #1 Not tainted
------------------------------------------------------
insmod/201 is trying to acquire lock:
ffffffff82a50c68 (kprobe_mutex){+.+.}-{3:3}, at: register_kprobe+0x4f/0x750

but task is already holding lock:
ffffffff82a4e8a8 (module_mutex){+.+.}-{3:3}, at: do_init_module+0x1b/0x1f0

stack backtrace:
CPU: 0 PID: 201 Comm: insmod Not tainted 6.1.192-pinpoint #1
Call Trace:
 <TASK>
 check_noncircular+0xf7/0x110
 </TASK>
"""

SUSPICIOUS_RCU = """
=============================
WARNING: suspicious RCU usage
6.1.192-pinpoint #1 Not tainted
-----------------------------
kernel/kprobes.c:430 RCU-list traversed in non-reader section!!

other info that might help us debug this:
"""

RCU_STALL = """
rcu: INFO: rcu_preempt self-detected stall on CPU
rcu: 	0-....: (5249 ticks this GP) idle=2b7c/1/0x4000000000000000 softirq=512/512 fqs=2625
	(t=5250 jiffies g=73 q=12 ncpus=1)
rcu: rcu_preempt kthread starved for 5250 jiffies! g73 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x0 ->cpu=0
CPU: 0 PID: 190 Comm: sh Not tainted 6.1.192-pinpoint #1
RIP: 0010:spin_forever+0x5/0x10 [pinpoint_target]
Call Trace:
 <TASK>
 </TASK>
"""

OOM = """
tail invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=0
CPU: 0 PID: 140 Comm: tail Not tainted 6.1.0-32-amd64 #1
Call Trace:
 <TASK>
 dump_header+0x4a/0x200
 </TASK>
Mem-Info:
oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),task_memcg=/,task=tail,pid=140,uid=0
Out of memory: Killed process 140 (tail) total-vm:409600kB, anon-rss:400000kB, file-rss:0kB, shmem-rss:0kB
"""

# An illegal instruction in a copy that a kprobe steps, and the fault of the task while it dies (6.1.192).
SPARC_ILLEGAL = """\
              \\|/ ____ \\|/
              "@'/ .. \\`@"
              /_| \\__/ |_\\
                 \\__U_/
sh(38): Kernel illegal instruction [#1]
CPU: 0 PID: 38 Comm: sh Tainted: G           O       6.1.192-pinpoint #1
TSTATE: 0000009911f01607 TPC: fffff8000242a474 TNPC: fffff8000242a478 Y: 00000000    Tainted: G           O
TPC: <0xfffff8000242a474>
g0: 0000000000000000 g1: 000000000000e301 g2: 0000000000000003 g3: 000000000000001c
RPC: <pinpoint_call_write+0x10c/0x1a0 [pinpoint_target]>
I7: <full_proxy_write+0x44/0x80>
Call Trace:
[<00000000005e9f64>] full_proxy_write+0x44/0x80
[<0000000000570d30>] vfs_write+0x90/0x320
[<000000000057110c>] ksys_write+0x4c/0xe0
[<0000000000406174>] linux_sparc_syscall+0x34/0x44
Disabling lock debugging due to kernel taint
Caller[00000000005e9f64]: full_proxy_write+0x44/0x80
Caller[0000000000570d30]: vfs_write+0x90/0x320
Caller[000000000057110c]: ksys_write+0x4c/0xe0
Caller[0000000000406174]: linux_sparc_syscall+0x34/0x44
Caller[0000000000000000]: 0x0
Instruction DUMP:
 38480002
 38480002
 91d02071
<00000000>
"""

SPARC_FAULT = """\
Unable to handle kernel paging request at virtual address 0000400000000000
tsk->{mm,active_mm}->context = 0000000000000022
tsk->{mm,active_mm}->pgd = fffff80002534000
              \\|/ ____ \\|/
              "@'/ .. \\`@"
              /_| \\__/ |_\\
                 \\__U_/
sh(38): Oops [#2]
CPU: 0 PID: 38 Comm: sh Tainted: G      D    O       6.1.192-pinpoint #1
TSTATE: 0000009080001607 TPC: 0000000010000854 TNPC: 0000000010000858 Y: 00001668    Tainted: G      D    O
TPC: <pinpoint_emulated+0x34/0xc0 [pinpoint_target]>
g0: 0000000000000008 g1: 0000400000000000 g2: 0000000000000000 g3: fffff800022b1930
RPC: <handle_softirqs+0xe0/0x320>
I7: <futex_exit_release+0x60/0x100>
Call Trace:
[<00000000004b6d00>] futex_exit_release+0x60/0x100
[<00000000004559e4>] exit_mm_release+0x4/0x20
[<000000000045a678>] do_exit+0x198/0x900
[<000000000045ae60>] make_task_dead+0x80/0x160
[<0000000000807244>] die_if_kernel+0x264/0x270
[<000000000042aa10>] do_illegal_instruction+0x150/0x160
[<0000000000420210>] tl0_ill+0x10/0x20
[<fffff8000242a474>] 0xfffff8000242a474
[<00000000005e9f64>] full_proxy_write+0x44/0x80
[<0000000000570d30>] vfs_write+0x90/0x320
[<000000000057110c>] ksys_write+0x4c/0xe0
[<0000000000406174>] linux_sparc_syscall+0x34/0x44
"""

I386_OOPS = """\
BUG: kernel NULL pointer dereference, address: 00000004
#PF: supervisor read access in kernel mode
#PF: error_code(0x0000) - not-present page
*pdpt = 0000000002e67001 *pde = 0000000000000000
Oops: 0000 [#3] PREEMPT SMP PTI
CPU: 0 PID: 206 Comm: sh Tainted: G      D W  OE      6.1.0-50-686-pae #1  Debian 6.1.176-1
Hardware name: QEMU Standard PC (Q35 + ICH9, 2009), BIOS 1.16.2-debian-1.16.2-1 04/01/2014
EIP: pinpoint_null_read+0xb/0x20 [pinpoint_crash]
Call Trace:
 ? pinpoint_obey.cold+0x17/0x2b [pinpoint_crash]
 ? pinpoint_obey+0xc0/0xc0 [pinpoint_crash]
 pinpoint_write+0x58/0x90 [pinpoint_crash]
 full_proxy_write+0x43/0x80
 ? full_proxy_poll+0x60/0x60
EIP: 0xb7fd5559
CR2: 0000000000000004
---[ end trace 0000000000000000 ]---
EIP: __list_del_entry_valid.cold+0x29/0x5c
"""

PPC64LE_OOPS = """\
Kernel attempted to read user page (4) - exploit attempt? (uid: 0)
BUG: Kernel NULL pointer dereference on read at 0x00000004
Faulting instruction address: 0xc008000000630614
Oops: Kernel access of bad area, sig: 11 [#3]
LE PAGE_SIZE=64K MMU=Radix SMP NR_CPUS=2048 NUMA pSeries
NIP:  c008000000630614 LR: c008000000630400 CTR: c0080000006305f8
NIP [c008000000630614] pinpoint_null_read+0x1c/0x30 [pinpoint_crash]
LR [c008000000630400] pinpoint_obey+0x2d8/0x310 [pinpoint_crash]
Call Trace:
[c0000000055c7930] [c0080000006303e8] pinpoint_obey+0x2c0/0x310 [pinpoint_crash] (unreliable)
[c0000000055c79f0] [c0080000006304d0] pinpoint_write+0x98/0x140 [pinpoint_crash]
--- interrupt: 3000 at 0x100c4180
---[ end trace 0000000000000000 ]---
"""

SUPERH_OOPS = """\
BUG: unable to handle kernel NULL pointer dereference at 00000004
PC: [<c00331cc>] pinpoint_null_read+0x4/0x10 [pinpoint_crash]
pgd = (ptrval)
[00000004] *pgd=00000000
Oops: 0000 [#2]
Modules linked in: pinpoint_crash(O)

CPU: 0 PID: 26 Comm: init Tainted: G      D W  O       6.1.192-pinpoint #1
PC is at pinpoint_null_read+0x4/0x10 [pinpoint_crash]
PR is at pinpoint_obey+0xa4/0xc8 [pinpoint_crash]
PC  : c00331cc SP  : 8ca23eb4 SR  : 40008001 TEA : c0034205

Call trace:
 [<c0033184>] pinpoint_write+0x38/0x7c [pinpoint_crash]
 [<8c161642>] full_proxy_write+0x3a/0x78
 [<8c0ffe08>] vfs_write+0x74/0x290
 [<8c011fbc>] arch_local_irq_restore+0x0/0x24
 [<8c161608>] full_proxy_write+0x0/0x78
 [<8c30f5b0>] do_page_fault+0xd4/0x240
 [<8c11b35a>] __fdget_pos+0xe/0x68
 [<8c10013e>] ksys_write+0x4a/0xc4
 [<8c01621e>] syscall_call+0x18/0x1e
 [<8c1001b8>] sys_write+0x0/0xc

Process: init (pid: 26, stack limit = (ptrval))
Stack: (0x8ca23eb4 to 0x8ca24000)
---[ end trace 0000000000000000 ]---
"""

SUPERH_BUG = """\
------------[ cut here ]------------
kernel BUG at probes/crash/faults.c:35!
Kernel BUG: 003e [#1]
Modules linked in: pinpoint_crash(O)

CPU: 0 PID: 25 Comm: init Tainted: G        W  O       6.1.192-pinpoint #1
PC is at pinpoint_bug+0xc/0x14 [pinpoint_crash]
PR is at pinpoint_obey+0xa4/0xc8 [pinpoint_crash]
PC  : c00332a8 SP  : 8ca23eb4 SR  : 40008001 TEA : c0034205

Call trace:
 [<c0033184>] pinpoint_write+0x38/0x7c [pinpoint_crash]
 [<8c161642>] full_proxy_write+0x3a/0x78
 [<8c0ffe08>] vfs_write+0x74/0x290
 [<8c011fbc>] arch_local_irq_restore+0x0/0x24
 [<8c161608>] full_proxy_write+0x0/0x78
 [<8c30f5b0>] do_page_fault+0xd4/0x240
 [<8c11b35a>] __fdget_pos+0xe/0x68
 [<8c10013e>] ksys_write+0x4a/0xc4
 [<8c01621e>] syscall_call+0x18/0x1e
 [<8c1001b8>] sys_write+0x0/0xc

Process: init (pid: 25, stack limit = (ptrval))
Stack: (0x8ca23eb4 to 0x8ca24000)
---[ end trace 0000000000000000 ]---
"""

# Each log, and the kind and place of each complaint that must be read from it, in order.
LOGS: dict[str, tuple[str, list[tuple[ComplaintKind, str]]]] = {
    "parisc warning at boot": (SLUB_WARNING, [(ComplaintKind.WARNING, "mm/slub.c:5134")]),
    "parisc_terminate": (PARISC_FAULT, [(ComplaintKind.FAULT, "bad_init")]),
    "die_if_kernel": (PARISC_DIE, [(ComplaintKind.FAULT, "hex2bin")]),
    "parisc user fault": (PARISC_USER_FAULT, []),
    "x86 oops": (X86_OOPS, [(ComplaintKind.FAULT, "bad_init")]),
    "i386 oops": (I386_OOPS, [(ComplaintKind.FAULT, "pinpoint_null_read")]),
    "PowerPC oops": (PPC64LE_OOPS, [(ComplaintKind.FAULT, "pinpoint_null_read")]),
    "x86 BUG_ON": (X86_BUG_ON, [(ComplaintKind.BUG, "mm/vmalloc.c:2702")]),
    "list corruption": (LIST_CORRUPTION, [(ComplaintKind.BUG, "lib/list_debug.c:53")]),
    "arm64 oops": (ARM64_OOPS, [(ComplaintKind.FAULT, "__unregister_kprobe_bottom")]),
    "SPARC illegal instruction": (SPARC_ILLEGAL, [(ComplaintKind.FAULT, "")]),
    "SPARC fault": (SPARC_FAULT, [(ComplaintKind.FAULT, "pinpoint_emulated")]),
    "SuperH oops": (SUPERH_OOPS, [(ComplaintKind.FAULT, "pinpoint_null_read")]),
    "SuperH BUG": (SUPERH_BUG, [(ComplaintKind.BUG, "probes/crash/faults.c:35")]),
    "KASAN": (KASAN, [(ComplaintKind.KASAN, "pinpoint_read")]),
    "KASAN null pointer": (KASAN_NULL, [(ComplaintKind.FAULT, "pinpoint_read")]),
    "circular locking": (CIRCULAR, [(ComplaintKind.LOCKDEP, "register_kprobe")]),
    "suspicious RCU": (SUSPICIOUS_RCU, [(ComplaintKind.LOCKDEP, "kernel/kprobes.c:430")]),
    "RCU stall": (RCU_STALL, [(ComplaintKind.RCU_STALL, "spin_forever")]),
    "OOM": (OOM, [(ComplaintKind.OUT_OF_MEMORY, "")]),
    "two in a row": (
        X86_BUG_ON + KASAN,
        [(ComplaintKind.BUG, "mm/vmalloc.c:2702"), (ComplaintKind.KASAN, "pinpoint_read")],
    ),
    "oops, then panic": (
        X86_OOPS
        + "Kernel panic - not syncing: Fatal exception\n---[ end Kernel panic - not syncing: Fatal exception ]---",
        [(ComplaintKind.FAULT, "bad_init"), (ComplaintKind.PANIC, "")],
    ),
}

# Complaints of one line each, as printed.
LINES: list[tuple[ComplaintKind, str]] = [
    (ComplaintKind.FAULT, "Oops [#1]"),
    (ComplaintKind.FAULT, "Oops - illegal instruction [#1]"),
    (ComplaintKind.FAULT, "Oops[#1]:"),
    (ComplaintKind.FAULT, "Kernel ade access[#1]:"),
    (ComplaintKind.FAULT, "do_reserved exception[#2]:"),
    (ComplaintKind.FAULT, "sh(38): Kernel illegal instruction [#1]"),
    (ComplaintKind.FAULT, "OOPS: Bogus kernel PC [0000000000000000] in fault handler"),
    (ComplaintKind.BUG, "Kernel bug detected[#1]:"),
    (ComplaintKind.FAULT, "Oops: Kernel access of bad area, sig: 11 [#1]"),
    (ComplaintKind.FAULT, "BUG: Unable to handle kernel data access on read at 0xc00c000000000000"),
    (ComplaintKind.FAULT, "CPU 0 Unable to handle kernel paging request at virtual address 0000000000000000, epc == 8"),
    (ComplaintKind.FAULT, "Unable to handle kernel pointer dereference in virtual kernel address space"),
    (ComplaintKind.FAULT, "illegal operation: 0001 ilc:1 [#1] SMP"),
    (ComplaintKind.PANIC, "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"),
    (ComplaintKind.PANIC, "traps: PANIC: double fault, error_code: 0x0"),
    (ComplaintKind.LOCKUP, "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [insmod:190]"),
    (ComplaintKind.LOCKUP, "NMI watchdog: Watchdog detected hard LOCKUP on cpu 1"),
    (ComplaintKind.LOCKUP, "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 33s!"),
    (ComplaintKind.RCU_STALL, "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:"),
    (ComplaintKind.RCU_STALL, "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-.... } 21 jiffies"),
    (ComplaintKind.HUNG_TASK, "INFO: task rmmod:211 blocked for more than 120 seconds."),
    (ComplaintKind.LOCKDEP, "WARNING: inconsistent lock state"),
    (ComplaintKind.LOCKDEP, "WARNING: bad unlock balance detected!"),
    (ComplaintKind.LOCKDEP, "WARNING: possible recursive locking detected"),
    (ComplaintKind.LOCKDEP, "WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected"),
    (ComplaintKind.LOCKDEP, "[ BUG: Invalid wait context ]"),
    (ComplaintKind.KASAN, "UBSAN: array-index-out-of-bounds in lib/foo.c:12:3"),
    (ComplaintKind.KASAN, "BUG: KFENCE: out-of-bounds read in pinpoint_read+0x3c/0x90"),
    (
        ComplaintKind.FAULT,
        "general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1] SMP",
    ),
    (ComplaintKind.FAULT, "stack segment: 0000 [#1] PREEMPT SMP"),
    (
        ComplaintKind.FAULT,
        "Oops: general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1] SMP",
    ),
    (ComplaintKind.FAULT, "BUG: unable to handle page fault for address: ffffb0a2c02cfc28"),
    (ComplaintKind.FAULT, "Internal error: Oops - BUG: 00000000f2000800 [#1] SMP"),
    (
        ComplaintKind.FAULT,
        "Bad Address (null pointer deref?): Code=26 (Data memory access rights trap) at addr 00000000",
    ),
    (ComplaintKind.BUG, "BUG: sleeping function called from invalid context at kernel/locking/mutex.c:580"),
    (ComplaintKind.BUG, "BUG: scheduling while atomic: insmod/190/0x00000002"),
    (ComplaintKind.BUG, "BUG kmalloc-64 (Tainted: G    B     ): Left Redzone overwritten"),
    (ComplaintKind.BUG, "BUG: Bad page state in process rmmod  pfn:0a3b1"),
    (ComplaintKind.WARNING, "WARNING: CPU: 0 PID: 1 at kernel/kprobes.c:1092 __disarm_kprobe_ftrace+0x4a/0x60"),
    (ComplaintKind.WARNING, "WARNING: kernel/kprobes.c:1092 at __disarm_kprobe_ftrace+0x4a/0x60, CPU#0: rmmod/211"),
    (ComplaintKind.LEAK, "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)"),
    (ComplaintKind.DROPPED, "** 17 printk messages dropped **"),
    (ComplaintKind.TRACE, "Call Trace:"),
]
