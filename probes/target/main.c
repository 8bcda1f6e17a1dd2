// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_target - functions of many shapes to probe, called on request
 */
#include <linux/debugfs.h>
#include <linux/init.h>
#include <linux/module.h>

#include "shapes.h"

static struct dentry *pinpoint_dir;

static int __init pinpoint_target_init(void)
{
	pinpoint_fill_data();
	pinpoint_dir = debugfs_create_dir(KBUILD_MODNAME, NULL);
	pinpoint_open_calls(pinpoint_dir);
	return 0;
}
module_init(pinpoint_target_init);

static void __exit pinpoint_target_exit(void)
{
	debugfs_remove_recursive(pinpoint_dir);
}
module_exit(pinpoint_target_exit);

MODULE_DESCRIPTION("Functions of many shapes to put kprobes on");
MODULE_LICENSE("GPL");
