// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_noexit - a module with an initializer and no exit, which
 * delete_module() never removes unless forced.
 */
#include <linux/init.h>
#include <linux/module.h>

/*
 * Without KALLSYMS_ALL data has no symbols. A module that keeps no function then
 * has no symbol at all, and no look-up finds it.
 */
static noinline int __used pinpoint_noexit_stays(int x)
{
	return x + 1;
}

static int __init pinpoint_noexit_init(void)
{
	return 0;
}
module_init(pinpoint_noexit_init);

MODULE_DESCRIPTION("Cannot be removed");
MODULE_LICENSE("GPL");
