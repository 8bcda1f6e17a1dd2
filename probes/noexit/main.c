// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_noexit - a module with an initializer and no exit: delete_module()
 * refuses it for good, unless forced.
 */
#include <linux/init.h>
#include <linux/module.h>

/*
 * A module without a function that stays has no symbol at all where data has
 * none (without KALLSYMS_ALL), and no look-up finds it.
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
