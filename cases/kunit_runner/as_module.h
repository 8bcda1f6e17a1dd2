/* SPDX-License-Identifier: GPL-2.0 */
/*
 * lib/test_kprobes.c as a module: stack_trace_save_regs() is not exported (kernel/stacktrace.c, 6.1), so its two tests of
 * stack traces are left out. Included after the kernel's configuration and before all else.
 */
#undef CONFIG_ARCH_CORRECT_STACKTRACE_ON_KRETPROBE
