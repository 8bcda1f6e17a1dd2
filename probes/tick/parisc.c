// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_tick: sets the interval timer once and does not stay.
 *
 * The kernel sets it anew from its own interrupt (timer_interrupt(),
 * arch/parisc/kernel/time.c, 6.1). QEMU 7.2 keeps the timer's register when it
 * writes a guest's state to a file, but not that it is running: a guest thawed
 * from there never ticks again, its processes sleep for ever and RCU frees
 * nothing. One interrupt is enough; how many ticks were missed the kernel finds
 * out by the cycle counter.
 */
#include <linux/errno.h>
#include <linux/module.h>
#include <asm/special_insns.h>

/* Cycles from now: after the write, whatever the emulator takes for it. */
#define SOON 100000

static int __init pinpoint_tick_init(void)
{
	mtctl(mfctl(16) + SOON, 16);
	return -EAGAIN;
}
module_init(pinpoint_tick_init);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Sets the interval timer of a thawed guest");
