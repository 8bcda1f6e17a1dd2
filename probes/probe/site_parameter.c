// SPDX-License-Identifier: GPL-2.0
/*
 * The parameter site=SPEC[,SPEC...], which may be given many times.
 *
 * The parameter has a type of its own, because charp is limited to 1024
 * characters. The sites exist from parsing until the kernel frees the module's
 * parameters, which it does whether or not the initializer ran (destroy_params()).
 */
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "probe.h"

LIST_HEAD(pinpoint_sites);
unsigned int pinpoint_count;

static void pinpoint_free(struct pinpoint_site *site)
{
	kfree(site->symbol);
	kfree(site);
}

static int pinpoint_add(const char *spec, size_t length)
{
	struct pinpoint_site *site;
	int error;

	site = kzalloc(sizeof(*site) + length + 1, GFP_KERNEL);
	if (!site)
		return -ENOMEM;
	memcpy(site->spec, spec, length);
	site->symbol = kstrdup(site->spec, GFP_KERNEL);
	error = site->symbol ? pinpoint_read_spec(site) : -ENOMEM;
	if (error) {
		pr_err(KBUILD_MODNAME ": '%s' is not how a site is written\n", site->spec);
		pinpoint_free(site);
		return error;
	}
	site->index = pinpoint_count++;
	list_add_tail(&site->node, &pinpoint_sites);
	return 0;
}

static int pinpoint_set_sites(const char *value, const struct kernel_param *unused)
{
	size_t length;
	int error;

	for (;; value += length + 1) {
		length = strcspn(value, ",");
		error = pinpoint_add(value, length);
		if (error || !value[length])
			return error;
	}
}

static void pinpoint_free_sites(void *unused)
{
	struct pinpoint_site *site, *next;

	list_for_each_entry_safe(site, next, &pinpoint_sites, node)
		pinpoint_free(site);
}

static const struct kernel_param_ops pinpoint_site_ops = {
	.set = pinpoint_set_sites,
	.free = pinpoint_free_sites,
};
module_param_cb(site, &pinpoint_site_ops, NULL, 0);
MODULE_PARM_DESC(site, "where to put kprobes: SYM, MOD:SYM+0xOFF, @0xADDR+0xOFF, separated by commas");
