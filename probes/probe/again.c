// SPDX-License-Identifier: GPL-2.0
/*
 * What can be done with a registered site while the module is loaded, through
 * /sys/module/pinpoint_probe/parameters: write the site's number there.
 *
 * remove: unregister its kprobe; the others stay. Unloading then does it once
 *	more, which unregister_kprobes() passes over.
 * again: register the same struct once more, as it stands; the kernel's errno
 *	is the write's.
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "probe.h"

static struct pinpoint_site *pinpoint_numbered(const char *number)
{
	struct pinpoint_site *site;
	unsigned int index;

	if (kstrtouint(number, 0, &index))
		return NULL;
	list_for_each_entry(site, &pinpoint_sites, node)
		if (site->index == index)
			return site->error ? NULL : site;
	return NULL;
}

static int pinpoint_remove(const char *number, const struct kernel_param *unused)
{
	struct pinpoint_site *site = pinpoint_numbered(number);

	if (!site)
		return -ENOENT;
	unregister_kprobe(&site->kp);
	return 0;
}

static int pinpoint_register_again(const char *number, const struct kernel_param *unused)
{
	struct pinpoint_site *site = pinpoint_numbered(number);

	return site ? register_kprobe(&site->kp) : -ENOENT;
}

static const struct kernel_param_ops pinpoint_remove_ops = {
	.set = pinpoint_remove,
};
module_param_cb(remove, &pinpoint_remove_ops, NULL, 0200);
MODULE_PARM_DESC(remove, "the number of a site whose kprobe is to go");

static const struct kernel_param_ops pinpoint_again_ops = {
	.set = pinpoint_register_again,
};
module_param_cb(again, &pinpoint_again_ops, NULL, 0200);
MODULE_PARM_DESC(again, "the number of a site to register once more");
