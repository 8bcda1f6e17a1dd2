// SPDX-License-Identifier: GPL-2.0
/*
 * A gate at which hits wait, for races in a chosen order.
 *
 * /sys/kernel/debug/pinpoint_uprobe/gate: a read returns the number of waiting
 * hits. Writing 1 closes the gate, writing 0 opens it. A killed process passes.
 */
#include <linux/debugfs.h>
#include <linux/module.h>
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
	if (wait_event_killable_timeout(pinpoint_queue, !READ_ONCE(pinpoint_closed), PINPOINT_MOST_JIFFIES) == 0)
		pr_warn("%s: the gate was not opened\n", KBUILD_MODNAME);
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

static int pinpoint_gate_get(void *data, u64 *value)
{
	*value = atomic_read(&pinpoint_waiting);
	return 0;
}

static int pinpoint_gate_set(void *data, u64 value)
{
	if (value)
		WRITE_ONCE(pinpoint_closed, true);
	else
		pinpoint_open_gate();
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(pinpoint_gate, pinpoint_gate_get, pinpoint_gate_set, "%llu\n");

/**
 * pinpoint_make_gate() - create the file
 * @dir: the module's directory in debugfs
 */
void pinpoint_make_gate(struct dentry *dir)
{
	debugfs_create_file_unsafe("gate", 0600, dir, NULL, &pinpoint_gate);
}
