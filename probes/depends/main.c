// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_depends - a module that needs pinpoint_pins
 */
#include <linux/init.h>
#include <linux/module.h>

#include "../pinnable_target/pinnable_target.h"

static int __init pinpoint_depends_init(void)
{
	return pinpoint_needed(1) == 2 ? 0 : -EINVAL;
}
module_init(pinpoint_depends_init);

static void __exit pinpoint_depends_exit(void)
{
}
module_exit(pinpoint_depends_exit);

MODULE_DESCRIPTION("Needs pinpoint_pins");
MODULE_LICENSE("GPL");
