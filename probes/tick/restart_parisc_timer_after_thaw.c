// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_tick: sets the interval timer once and does not stay loaded.
 *
 * The kernel sets the timer again from the timer's own interrupt
 * (timer_interrupt(), arch/parisc/kernel/time.c, 6.1). When QEMU 7.2 writes a
 * guest's state to a file, it saves the timer's register but not that the timer is
 * running. So a thawed guest never ticks again, its sleeps never end and RCU frees
 * nothing. One interrupt is enough: the kernel computes the missed ticks from the
 * cycle counter.
 */
#include <linux/errno.h>
#include <linux/module.h>
#include <asm/special_insns.h>

/* In cycles from now; enough that the write ends before, also under emulation. */
#define SOON 100000

static int __init pinpoint_tick_init(void)
{
	mtctl(mfctl(16) + SOON, 16);
	return -EAGAIN;
}
module_init(pinpoint_tick_init);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Sets the interval timer of a thawed guest");
