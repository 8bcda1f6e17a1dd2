// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_large - more text than a branch of the architecture may reach
 *
 * Writing N to the parameter `calls` calls pinpoint_far() N times. The write fails
 * if a call returns another value than it should.
 */
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "large.h"

static int pinpoint_call_far(const char *text, const struct kernel_param *parameter)
{
	unsigned int times, turn;
	int error = kstrtouint(text, 0, &times);

	if (error)
		return error;
	for (turn = 0; turn < times; turn++)
		if (pinpoint_far(turn) != 10 + turn % 4 + turn)
			return -EIO;
	return 0;
}

static const struct kernel_param_ops pinpoint_calls = {
	.set = pinpoint_call_far,
};
module_param_cb(calls, &pinpoint_calls, NULL, 0200);

static int __init pinpoint_large_init(void)
{
	return 0;
}
module_init(pinpoint_large_init);

static void __exit pinpoint_large_exit(void)
{
}
module_exit(pinpoint_large_exit);

MODULE_DESCRIPTION("A function at the far end of a large module");
MODULE_LICENSE("GPL");
