// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_sweep - registers thousands of kprobes in one batch, reports each
 *
 * Its files in debugfs:
 *
 * sites: opening it for writing begins a new batch. It takes SYM+0xOFF, one on
 *	each line, in any number of writes.
 * do: "resolve" registers the batch disabled, so that the kernel resolves
 *	every site and places no breakpoint. "arm" registers it armed. "hold"
 *	registers it disabled, and arms it for a time in which nothing else
 *	runs. "remove" unregisters all of it. A refused site is reported, and
 *	the others are still registered.
 * report: the result of each site.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "sweep.h"

#define PINPOINT_WORD	16

DEFINE_MUTEX(pinpoint_sweeping);
static struct dentry *pinpoint_dir;

static int pinpoint_sites_open(struct inode *inode, struct file *file)
{
	int error = 0;

	mutex_lock(&pinpoint_sweeping);
	if (pinpoint_batch.standing)
		error = -EBUSY;
	else
		pinpoint_forget_batch();
	mutex_unlock(&pinpoint_sweeping);
	return error ? error : nonseekable_open(inode, file);
}

static ssize_t pinpoint_sites_write(struct file *file, const char __user *buf,
				    size_t count, loff_t *pos)
{
	int error;

	mutex_lock(&pinpoint_sweeping);
	error = pinpoint_append_text(buf, count);
	mutex_unlock(&pinpoint_sweeping);
	return error ? error : count;
}

static const struct file_operations pinpoint_sites_fops = {
	.owner = THIS_MODULE,
	.open = pinpoint_sites_open,
	.write = pinpoint_sites_write,
};

static int pinpoint_do(const char *word)
{
	bool armed = sysfs_streq(word, "arm"), held = sysfs_streq(word, "hold");
	int error;

	if (sysfs_streq(word, "remove")) {
		pinpoint_remove_batch();
		return 0;
	}
	if (!armed && !held && !sysfs_streq(word, "resolve"))
		return -EINVAL;
	if (pinpoint_batch.standing)
		return -EBUSY;
	error = pinpoint_read_batch();
	if (error)
		return error;
	return held ? pinpoint_hold_batch() : pinpoint_register_batch(armed);
}

static ssize_t pinpoint_do_write(struct file *file, const char __user *buf,
				 size_t count, loff_t *pos)
{
	char word[PINPOINT_WORD];
	int error;

	if (count >= sizeof(word))
		return -EINVAL;
	if (copy_from_user(word, buf, count))
		return -EFAULT;
	word[count] = '\0';
	mutex_lock(&pinpoint_sweeping);
	error = pinpoint_do(word);
	mutex_unlock(&pinpoint_sweeping);
	return error ? error : count;
}

static const struct file_operations pinpoint_do_fops = {
	.owner = THIS_MODULE,
	.open = nonseekable_open,
	.write = pinpoint_do_write,
};

static int __init pinpoint_sweep_init(void)
{
	pinpoint_dir = debugfs_create_dir(KBUILD_MODNAME, NULL);
	if (IS_ERR(pinpoint_dir))
		return PTR_ERR(pinpoint_dir);
	debugfs_create_file("sites", 0200, pinpoint_dir, NULL, &pinpoint_sites_fops);
	debugfs_create_file("do", 0200, pinpoint_dir, NULL, &pinpoint_do_fops);
	pinpoint_open_sweep_report(pinpoint_dir);
	return 0;
}
module_init(pinpoint_sweep_init);

static void __exit pinpoint_sweep_exit(void)
{
	debugfs_remove_recursive(pinpoint_dir);
	pinpoint_remove_batch();
	pinpoint_forget_batch();
}
module_exit(pinpoint_sweep_exit);

MODULE_DESCRIPTION("kprobes at thousands of sites in one go");
MODULE_LICENSE("GPL");
