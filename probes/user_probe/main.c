// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_uprobe - registers a uprobe at each requested offset of one file,
 * counts its hits
 *
 *	insmod pinpoint_uprobe.ko file=/tmp/libx.so site=p:0x1139,r:0x1150
 *
 * The kernel takes only an inode and an offset. A site that it refuses is
 * reported, and the module is still loaded.
 */
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/namei.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "user.h"

LIST_HEAD(pinpoint_sites);
struct inode *pinpoint_inode;

static char *file;
module_param(file, charp, 0444);
MODULE_PARM_DESC(file, "the file whose code is probed");

static bool unregistered;
module_param(unregistered, bool, 0444);
MODULE_PARM_DESC(unregistered, "wrong on purpose: register nothing, and report that all is registered");

static struct dentry *pinpoint_dir;
static unsigned int pinpoint_count;

static int pinpoint_add_site(const char *spec)
{
	struct pinpoint_site *site;

	if ((*spec != 'p' && *spec != 'r') || spec[1] != ':')
		return -EINVAL;
	site = kzalloc(sizeof(*site) + strlen(spec) + 1, GFP_KERNEL);
	if (!site)
		return -ENOMEM;
	strcpy(site->spec, spec);
	if (kstrtoll(spec + 2, 0, &site->offset)) {
		kfree(site);
		return -EINVAL;
	}
	spin_lock_init(&site->lock);
	site->index = pinpoint_count++;
	list_add_tail(&site->node, &pinpoint_sites);
	return 0;
}

static void pinpoint_free_sites(void)
{
	struct pinpoint_site *site, *next;

	list_for_each_entry_safe(site, next, &pinpoint_sites, node) {
		list_del(&site->node);
		kfree(site);
	}
}

static int pinpoint_set_sites(const char *value, const struct kernel_param *param)
{
	char *copy = kstrdup(value, GFP_KERNEL);
	char *rest = copy;
	char *spec;
	int error = copy ? 0 : -ENOMEM;

	while (!error && (spec = strsep(&rest, ",\n")) != NULL)
		if (*spec)
			error = pinpoint_add_site(spec);
	kfree(copy);
	if (error)
		pinpoint_free_sites();
	return error;
}

static const struct kernel_param_ops pinpoint_site_ops = { .set = pinpoint_set_sites };
module_param_cb(site, &pinpoint_site_ops, NULL, 0200);
MODULE_PARM_DESC(site, "p:OFFSET or, for a return probe, r:OFFSET; several with commas");

static int pinpoint_find_file(void)
{
	struct path path;
	int error;

	error = file ? kern_path(file, LOOKUP_FOLLOW, &path) : -ENOENT;
	if (error)
		return error;
	pinpoint_inode = igrab(d_real_inode(path.dentry));
	path_put(&path);
	return pinpoint_inode ? 0 : -ENOENT;
}

static int __init pinpoint_uprobe_init(void)
{
	struct pinpoint_site *site;
	int error;

	error = pinpoint_find_file();
	if (error) {
		pinpoint_free_sites();
		return error;
	}
	list_for_each_entry(site, &pinpoint_sites, node) {
		site->claimed = unregistered;
		site->error = unregistered ? 0 : pinpoint_register(site);
		cond_resched();
	}
	pinpoint_dir = debugfs_create_dir(KBUILD_MODNAME, NULL);
	pinpoint_make_report(pinpoint_dir);
	return 0;
}
module_init(pinpoint_uprobe_init);

static void __exit pinpoint_uprobe_exit(void)
{
	struct pinpoint_site *site;

	/* While this waits for hits to end, a closed gate can still be opened. */
	list_for_each_entry(site, &pinpoint_sites, node)
		if (!site->error && !site->claimed)
			pinpoint_unregister(site);
	debugfs_remove_recursive(pinpoint_dir);
	pinpoint_free_sites();
	iput(pinpoint_inode);
}
module_exit(pinpoint_uprobe_exit);

MODULE_DESCRIPTION("uprobes by inode and offset, and what became of each");
MODULE_LICENSE("GPL");
