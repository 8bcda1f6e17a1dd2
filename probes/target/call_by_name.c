// SPDX-License-Identifier: GPL-2.0
/*
 * The files in debugfs through which a target's shapes are called.
 *
 * call: write "NAME TIMES", and the shape runs exactly TIMES times.
 * result: the last call and a checksum of all values that it returned.
 * shapes: every name and how often a call enters pinpoint_<name>.
 */
#include <linux/bitops.h>
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "shapes.h"

#define PINPOINT_LINE	64

static DEFINE_MUTEX(pinpoint_lock);
static const struct pinpoint_shape *pinpoint_last;
static unsigned int pinpoint_times;
static u32 pinpoint_value;

static const struct pinpoint_shape *pinpoint_find(const char *name)
{
	const struct pinpoint_shape *shape;

	for (shape = pinpoint_shapes; shape->name; shape++)
		if (!strcmp(shape->name, name))
			return shape;
	return NULL;
}

static void pinpoint_run(const struct pinpoint_shape *shape, unsigned int times)
{
	unsigned int i;
	u32 value = 0;

	for (i = 0; i < times; i++) {
		value = rol32(value, 5) ^ shape->call(i);
		cond_resched();
	}
	pinpoint_last = shape;
	pinpoint_times = times;
	pinpoint_value = value;
}

static ssize_t pinpoint_call_write(struct file *file, const char __user *buf,
				   size_t count, loff_t *pos)
{
	const struct pinpoint_shape *shape;
	char line[PINPOINT_LINE], name[PINPOINT_LINE];
	unsigned int times;
	char rest;

	if (count >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, buf, count))
		return -EFAULT;
	line[count] = '\0';
	if (sscanf(line, "%63s %u %c", name, &times, &rest) != 2)
		return -EINVAL;
	shape = pinpoint_find(name);
	if (!shape)
		return -ENOENT;
	mutex_lock(&pinpoint_lock);
	pinpoint_run(shape, times);
	mutex_unlock(&pinpoint_lock);
	return count;
}

static const struct file_operations pinpoint_call_fops = {
	.owner = THIS_MODULE,
	.open = nonseekable_open,
	.write = pinpoint_call_write,
};

static int pinpoint_result_show(struct seq_file *out, void *unused)
{
	mutex_lock(&pinpoint_lock);
	if (pinpoint_last)
		seq_printf(out, "name=%s times=%u value=0x%08x\n",
			   pinpoint_last->name, pinpoint_times, pinpoint_value);
	mutex_unlock(&pinpoint_lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(pinpoint_result);

static int pinpoint_shapes_show(struct seq_file *out, void *unused)
{
	const struct pinpoint_shape *shape;

	for (shape = pinpoint_shapes; shape->name; shape++)
		seq_printf(out, "name=%s entries=%u\n", shape->name, shape->entries);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(pinpoint_shapes);

/**
 * pinpoint_open_calls() - create the files
 * @dir: the module's directory in debugfs
 */
void pinpoint_open_calls(struct dentry *dir)
{
	debugfs_create_file("call", 0200, dir, NULL, &pinpoint_call_fops);
	debugfs_create_file("result", 0400, dir, NULL, &pinpoint_result_fops);
	debugfs_create_file("shapes", 0400, dir, NULL, &pinpoint_shapes_fops);
}
