// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_noexit - a module with an initializer and no exit: delete_module()
 * refuses it for good, unless forced.
 */
#include <linux/init.h>
#include <linux/module.h>

static int __init pinpoint_noexit_init(void)
{
	return 0;
}
module_init(pinpoint_noexit_init);

MODULE_DESCRIPTION("Cannot be removed");
MODULE_LICENSE("GPL");
