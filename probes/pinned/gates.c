// SPDX-License-Identifier: GPL-2.0
/*
 * Gates in a module's initializer or exit: places where it stops until told to
 * go on.
 *
 * At a gate it says "MODULE: at NAME" in the kernel's log and waits
 * until someone writes anything to the parameter open_gate. A parameter, not a
 * file in debugfs: sysfs waits for a write under way when the module is freed,
 * while an open debugfs file would keep a pointer into the module, which is
 * freed whoever refers to it when its initializer fails.
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
 * pinpoint_gate() - stop here if that was asked for
 * @name: what this place is called
 *
 * No signal ends the wait: what a killed loader leaves must be as it is with an
 * initializer that is busy. Nor is it a hung task.
 *
 * Return: 0, or -ETIMEDOUT if nobody opened the gate in five minutes.
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
