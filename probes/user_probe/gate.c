// SPDX-License-Identifier: GPL-2.0
/*
 * A gate at which hits wait, for races in a chosen order.
 *
 * /sys/module/pinpoint_uprobe/parameters/gate: a read returns the number of
 * waiting hits. Writing 1 closes the gate, writing 0 opens it. A killed process
 * passes. The gate is a parameter because the file of one can still be opened
 * while the module is GOING; a file of debugfs cannot (fops_get()).
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/wait.h>

#include "user.h"

/* No gate holds a hit longer, even if the process that closed it is gone. */
#define PINPOINT_MOST_JIFFIES (60 * HZ)

static bool pinpoint_closed;
static atomic_t pinpoint_waiting = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(pinpoint_queue);

/**
 * pinpoint_await_gate() - wait while the gate is closed, unless killed
 */
void pinpoint_await_gate(void)
{
	if (!READ_ONCE(pinpoint_closed))
		return;
	atomic_inc(&pinpoint_waiting);
	/* The warning fails the cell: what it wanted to show did not happen. */
	WARN(!wait_event_killable_timeout(pinpoint_queue, !READ_ONCE(pinpoint_closed), PINPOINT_MOST_JIFFIES),
	     "%s: the gate was not opened\n", KBUILD_MODNAME);
	atomic_dec(&pinpoint_waiting);
}

/**
 * pinpoint_open_gate() - let all hits pass
 */
void pinpoint_open_gate(void)
{
	WRITE_ONCE(pinpoint_closed, false);
	wake_up_all(&pinpoint_queue);
}

static int pinpoint_gate_get(char *buffer, const struct kernel_param *kp)
{
	return sprintf(buffer, "%d\n", atomic_read(&pinpoint_waiting));
}

static int pinpoint_gate_set(const char *value, const struct kernel_param *kp)
{
	bool closes;
	int error = kstrtobool(value, &closes);

	if (error)
		return error;
	if (closes)
		WRITE_ONCE(pinpoint_closed, true);
	else
		pinpoint_open_gate();
	return 0;
}

static const struct kernel_param_ops pinpoint_gate_ops = {
	.set = pinpoint_gate_set,
	.get = pinpoint_gate_get,
};
module_param_cb(gate, &pinpoint_gate_ops, NULL, 0600);
MODULE_PARM_DESC(gate, "write 1 to close the gate for hits, 0 to open it; reads as the number of waiting hits");
