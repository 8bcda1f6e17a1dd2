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
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/string.h>
#include <linux/wait.h>

#include "pinned.h"

#define PINPOINT_GATES		4
#define PINPOINT_WAIT_SECONDS	300

static char *gates[PINPOINT_GATES];
static unsigned int gate_count;
module_param_array(gates, charp, &gate_count, 0444);
MODULE_PARM_DESC(gates, "where to stop: entered, validated, registered; leaving");

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

/**
 * pinpoint_gate() - stop here if that was requested
 * @name: the name of this place
 *
 * No signal ends the wait, so a killed loader leaves the same state as with a busy
 * initializer. The wait does not count as a hung task.
 *
 * Return: 0, or -ETIMEDOUT if the gate was not opened in five minutes.
 */
int pinpoint_gate(const char *name)
{
	if (!pinpoint_gated(name))
		return 0;
	pr_alert(KBUILD_MODNAME ": at %s\n", name);
	if (!wait_event_idle_timeout(pinpoint_gate_queue, READ_ONCE(pinpoint_gate_open),
				     PINPOINT_WAIT_SECONDS * HZ))
		return -ETIMEDOUT;
	WRITE_ONCE(pinpoint_gate_open, false);
	return 0;
}
