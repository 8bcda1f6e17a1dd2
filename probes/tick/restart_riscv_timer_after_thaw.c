// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_tick: sets the timer of each CPU once and does not stay loaded.
 *
 * The kernel sets the timer again from the timer's own interrupt, or for an
 * earlier event. When QEMU 7.2 writes a guest's state to a file, it saves the
 * compare register of the timer but not that the timer is running. So a thawed
 * guest gets no timer interrupt, and its sleeps never end. One interrupt is
 * enough: hrtimer_interrupt() runs what has expired and sets the next event.
 */
#include <linux/errno.h>
#include <linux/module.h>
#include <linux/smp.h>
#include <asm/cpufeature.h>
#include <asm/csr.h>
#include <asm/sbi.h>

/* In units of the time register from now: one millisecond on QEMU's virt machine. */
#define SOON 10000

static void pinpoint_tick_soon(void *unused)
{
	u64 soon = csr_read(CSR_TIME) + SOON;

	if (riscv_isa_extension_available(NULL, SSTC))
		csr_write(CSR_STIMECMP, soon);
	else
		sbi_ecall(SBI_EXT_TIME, SBI_EXT_TIME_SET_TIMER, soon, 0, 0, 0, 0, 0);
}

static int __init pinpoint_tick_init(void)
{
	on_each_cpu(pinpoint_tick_soon, NULL, 1);
	return -EAGAIN;
}
module_init(pinpoint_tick_init);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Sets the timers of a thawed guest");
