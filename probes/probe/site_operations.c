// SPDX-License-Identifier: GPL-2.0
/*
 * Operations on a registered site while the module is loaded, through the files
 * in /sys/module/pinpoint_probe/parameters. Write the site's number to one:
 *
 * remove: unregister its kprobe; the others stay. Unloading unregisters it once
 *	more, which unregister_kprobes() ignores.
 * disable, enable: disarm its kprobe, and arm it again; the write returns the
 *	kernel's errno.
 * swap: disarm one and arm another at once.
 * again: register the same struct once more, unchanged; the write returns the
 *	kernel's errno.
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/string.h>

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

static int pinpoint_disable(const char *number, const struct kernel_param *unused)
{
	struct pinpoint_site *site = pinpoint_numbered(number);

	return site ? disable_kprobe(&site->kp) : -ENOENT;
}

static int pinpoint_enable(const char *number, const struct kernel_param *unused)
{
	struct pinpoint_site *site = pinpoint_numbered(number);

	return site ? enable_kprobe(&site->kp) : -ENOENT;
}

/* No return to user space and no grace period in between, so that the optimizer has not run yet. */
static int pinpoint_swap(const char *numbers, const struct kernel_param *unused)
{
	const char *comma = strchr(numbers, ',');
	struct pinpoint_site *disarmed, *armed;
	char first[8];
	int error;

	if (!comma || comma - numbers >= sizeof(first))
		return -EINVAL;
	strscpy(first, numbers, comma - numbers + 1);
	disarmed = pinpoint_numbered(first);
	armed = pinpoint_numbered(comma + 1);
	if (!disarmed || !armed)
		return -ENOENT;
	error = disable_kprobe(&disarmed->kp);
	return error ?: enable_kprobe(&armed->kp);
}

static const struct kernel_param_ops pinpoint_remove_ops = {
	.set = pinpoint_remove,
};
module_param_cb(remove, &pinpoint_remove_ops, NULL, 0200);
MODULE_PARM_DESC(remove, "the number of a site whose kprobe is to go");

static const struct kernel_param_ops pinpoint_disable_ops = {
	.set = pinpoint_disable,
};
module_param_cb(disable, &pinpoint_disable_ops, NULL, 0200);
MODULE_PARM_DESC(disable, "the number of a site whose kprobe is to be disarmed");

static const struct kernel_param_ops pinpoint_enable_ops = {
	.set = pinpoint_enable,
};
module_param_cb(enable, &pinpoint_enable_ops, NULL, 0200);
MODULE_PARM_DESC(enable, "the number of a site whose kprobe is to be armed again");

static const struct kernel_param_ops pinpoint_swap_ops = {
	.set = pinpoint_swap,
};
module_param_cb(swap, &pinpoint_swap_ops, NULL, 0200);
MODULE_PARM_DESC(swap, "DISARMED,ARMED: the numbers of a site to disarm and of one to arm at once");

static const struct kernel_param_ops pinpoint_again_ops = {
	.set = pinpoint_register_again,
};
module_param_cb(again, &pinpoint_again_ops, NULL, 0200);
MODULE_PARM_DESC(again, "the number of a site to register once more");
