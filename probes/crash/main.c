// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_crash - fires a trigger that makes the kernel complain, on command
 *
 * Its file in debugfs is pinpoint_crash. Reading it lists the triggers that this
 * kernel can detect, one on each line. Writing "NAME" or "NAME SECONDS" fires one.
 * The parameter commit=NAME fires one in the initializer.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "crash.h"

#define PINPOINT_ORDER	32
#define PINPOINT_NAME	24

static const struct pinpoint_trigger *const pinpoint_lists[] = {
	pinpoint_faults, pinpoint_misuses, pinpoint_stalls,
};

static struct dentry *pinpoint_file;

static char *commit;
module_param(commit, charp, 0400);
MODULE_PARM_DESC(commit, "a trigger to commit in the initializer");

static const struct pinpoint_trigger *pinpoint_named(const char *name)
{
	const struct pinpoint_trigger *trigger;
	int i;

	for (i = 0; i < ARRAY_SIZE(pinpoint_lists); i++)
		for (trigger = pinpoint_lists[i]; trigger->name; trigger++)
			if (trigger->possible && !strcmp(trigger->name, name))
				return trigger;
	return NULL;
}

/* The line printed first marks where in the log a trigger's traces begin. */
static int pinpoint_obey(const char *order)
{
	const struct pinpoint_trigger *trigger;
	char name[PINPOINT_NAME];
	unsigned int seconds = 0;

	if (sscanf(order, "%23s %u", name, &seconds) < 1)
		return -EINVAL;
	trigger = pinpoint_named(name);
	if (!trigger)
		return -ENOENT;
	pr_warn("pinpoint_crash: to commit %s\n", trigger->name);
	trigger->commit(seconds);
	pr_warn("pinpoint_crash: committed %s\n", trigger->name);
	return 0;
}

static ssize_t pinpoint_write(struct file *file, const char __user *buf,
			      size_t count, loff_t *pos)
{
	char order[PINPOINT_ORDER];
	int error;

	if (count >= sizeof(order))
		return -EINVAL;
	if (copy_from_user(order, buf, count))
		return -EFAULT;
	order[count] = '\0';
	error = pinpoint_obey(order);
	return error ? error : count;
}

static int pinpoint_show(struct seq_file *seq, void *unused)
{
	const struct pinpoint_trigger *trigger;
	int i;

	for (i = 0; i < ARRAY_SIZE(pinpoint_lists); i++)
		for (trigger = pinpoint_lists[i]; trigger->name; trigger++)
			if (trigger->possible)
				seq_printf(seq, "%s\n", trigger->name);
	return 0;
}

static int pinpoint_open(struct inode *inode, struct file *file)
{
	return single_open(file, pinpoint_show, NULL);
}

static const struct file_operations pinpoint_fops = {
	.owner = THIS_MODULE,
	.open = pinpoint_open,
	.read = seq_read,
	.write = pinpoint_write,
	.llseek = seq_lseek,
	.release = single_release,
};

static int __init pinpoint_crash_init(void)
{
	int error = commit ? pinpoint_obey(commit) : 0;

	if (error)
		return error;
	pinpoint_file = debugfs_create_file("pinpoint_crash", 0600, NULL, NULL,
					    &pinpoint_fops);
	return PTR_ERR_OR_ZERO(pinpoint_file);
}

static void __exit pinpoint_crash_exit(void)
{
	debugfs_remove(pinpoint_file);
}

module_init(pinpoint_crash_init);
module_exit(pinpoint_crash_exit);

MODULE_DESCRIPTION("Commits what a kernel complains of");
MODULE_LICENSE("GPL");
