// SPDX-License-Identifier: GPL-2.0
/*
 * Gates in a module's initializer or exit: places where it stops until it is
 * released.
 *
 * At a gate it prints "MODULE: at NAME" to the kernel's log and waits until
 * something is written to the parameter open_gate. It is a parameter and not a
 * file in debugfs, because a module is freed when its initializer fails, whatever
 * refers to it. sysfs then waits for a write under way, while an open debugfs file
 * would keep a pointer into the module.
 */
#include <linux/fdtable.h>
#include <linux/irqflags.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>

#include "pinned.h"

#define PINPOINT_GATES		4
#define PINPOINT_WAIT_SECONDS	300

static char *gates[PINPOINT_GATES];
static unsigned int gate_count;
module_param_array(gates, charp, &gate_count, 0444);
MODULE_PARM_DESC(gates, "where to stop: entered, validated, registered; leaving");

static char *waits = "";
module_param(waits, charp, 0444);
MODULE_PARM_DESC(waits, "how to wait at a gate: idle, busy, interruptible or uninterruptible; also counts open files");

static DECLARE_WAIT_QUEUE_HEAD(pinpoint_gate_queue);
static bool pinpoint_gate_open;

static int pinpoint_open_gate(const char *unused, const struct kernel_param *parameter)
{
	WRITE_ONCE(pinpoint_gate_open, true);
	wake_up(&pinpoint_gate_queue);
	return 0;
}

static const struct kernel_param_ops pinpoint_open_gate_ops = {
	.set = pinpoint_open_gate,
};
module_param_cb(open_gate, &pinpoint_open_gate_ops, NULL, 0200);
MODULE_PARM_DESC(open_gate, "written to: go on from the gate");

static bool pinpoint_gated(const char *name)
{
	unsigned int i;

	for (i = 0; i < gate_count; i++)
		if (!strcmp(gates[i], name))
			return true;
	return false;
}

static int pinpoint_count_file(const void *count, struct file *unused_file, unsigned int unused_fd)
{
	++*(unsigned int *)count;
	return 0;
}

/* The number of files that the loader's task has open, as the kernel has it. */
static unsigned int pinpoint_open_files(void)
{
	unsigned int count = 0;

	iterate_fd(current->files, 0, pinpoint_count_file, &count);
	return count;
}

static bool pinpoint_waits(const char *how)
{
	return !strcmp(waits, how);
}

static int pinpoint_spin(void)
{
	unsigned long end = jiffies + PINPOINT_WAIT_SECONDS * HZ;

	while (!READ_ONCE(pinpoint_gate_open)) {
		if (time_after(jiffies, end))
			return -ETIMEDOUT;
		cond_resched();
		/* QEMU's SuperH looks for an interrupt that waits where SR is written, and not in such a loop. */
		local_irq_enable();
	}
	return 0;
}

static int pinpoint_await_opening(void)
{
	const long most = PINPOINT_WAIT_SECONDS * HZ;
	long left;

	if (pinpoint_waits("busy"))
		return pinpoint_spin();
	if (pinpoint_waits("interruptible"))
		left = wait_event_interruptible_timeout(pinpoint_gate_queue, READ_ONCE(pinpoint_gate_open), most);
	else if (pinpoint_waits("uninterruptible"))
		left = wait_event_timeout(pinpoint_gate_queue, READ_ONCE(pinpoint_gate_open), most);
	else
		left = wait_event_idle_timeout(pinpoint_gate_queue, READ_ONCE(pinpoint_gate_open), most);
	return left < 0 ? left : left ? 0 : -ETIMEDOUT;
}

/**
 * pinpoint_gate() - stop here if that was requested
 * @name: the name of this place
 *
 * By default no signal ends the wait, so a killed loader leaves the same state as
 * with a busy initializer, and the wait does not count as a hung task. With the
 * parameter waits it waits in another way, and prints how many files the task has
 * open before and after.
 *
 * Return: 0, -ETIMEDOUT if the gate was not opened in five minutes, or
 * -ERESTARTSYS if a signal ended an interruptible wait.
 */
int pinpoint_gate(const char *name)
{
	int error;

	if (!pinpoint_gated(name))
		return 0;
	if (*waits)
		pr_alert(KBUILD_MODNAME ": before %s files=%u\n", name, pinpoint_open_files());
	pr_alert(KBUILD_MODNAME ": at %s\n", name);
	error = pinpoint_await_opening();
	if (*waits)
		pr_alert(KBUILD_MODNAME ": after %s files=%u signal=%d error=%d\n", name,
			 pinpoint_open_files(), signal_pending(current), error);
	if (error)
		return error;
	WRITE_ONCE(pinpoint_gate_open, false);
	/*
	 * A module that was freed meanwhile can still be reached through the TLB, on
	 * SPARC for as long as no 32 MiB have been freed after it.
	 */
	vm_unmap_aliases();
	return 0;
}
