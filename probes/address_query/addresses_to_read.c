// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_data - the kernel's names for addresses, and the bytes there
 *
 * The parameter resolve= looks symbols up (resolve.c).
 *
 * The parameter at=ADDR/SIZE[@CPU][,...] may be given many times. With @CPU,
 * ADDR is the address of a per-CPU variable, and that CPU's copy is read.
 */
#include <linux/cpumask.h>
#include <linux/debugfs.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "address_query.h"

LIST_HEAD(pinpoint_places);
static struct dentry *pinpoint_dir;

static int pinpoint_read_place(struct pinpoint_place *place)
{
	unsigned int cpu;
	char rest;

	place->cpu = -1;
	switch (sscanf(place->spec, "%lx/%u@%u%c", &place->address, &place->size, &cpu, &rest)) {
	case 2:
		if (strchr(place->spec, '@'))
			return -EINVAL;
		break;
	case 3:
		if (cpu >= nr_cpu_ids || !cpu_possible(cpu))
			return -EINVAL;
		place->cpu = cpu;
		break;
	default:
		return -EINVAL;
	}
	return place->size > PINPOINT_DATA_MOST ? -EINVAL : 0;
}

static int pinpoint_add_place(const char *spec, size_t length)
{
	struct pinpoint_place *place;
	int error;

	place = kzalloc(sizeof(*place) + length + 1, GFP_KERNEL);
	if (!place)
		return -ENOMEM;
	memcpy(place->spec, spec, length);
	error = pinpoint_read_place(place);
	if (error) {
		pr_err("pinpoint_data: place '%s' is not 0xADDR/SIZE or 0xADDR/SIZE@CPU\n", place->spec);
		kfree(place);
		return error;
	}
	list_add_tail(&place->node, &pinpoint_places);
	return 0;
}

static int pinpoint_set_places(const char *value, const struct kernel_param *unused)
{
	size_t length;
	int error;

	for (;; value += length + 1) {
		length = strcspn(value, ",");
		error = pinpoint_add_place(value, length);
		if (error || !value[length])
			return error;
	}
}

static void pinpoint_free_places(void *unused)
{
	struct pinpoint_place *place, *next;

	list_for_each_entry_safe(place, next, &pinpoint_places, node)
		kfree(place);
}

static const struct kernel_param_ops pinpoint_at_ops = {
	.set = pinpoint_set_places,
	.free = pinpoint_free_places,
};
module_param_cb(at, &pinpoint_at_ops, NULL, 0);
MODULE_PARM_DESC(at, "addresses to report on: 0xADDR/SIZE or 0xADDR/SIZE@CPU, separated by commas");

static int __init pinpoint_data_init(void)
{
	int error = pinpoint_resolve();

	if (error)
		return error;
	pinpoint_dir = debugfs_create_dir(KBUILD_MODNAME, NULL);
	pinpoint_open_places(pinpoint_dir);
	pinpoint_open_resolved(pinpoint_dir);
	return 0;
}
module_init(pinpoint_data_init);

static void __exit pinpoint_data_exit(void)
{
	debugfs_remove_recursive(pinpoint_dir);
}
module_exit(pinpoint_data_exit);

MODULE_DESCRIPTION("What the kernel calls addresses, and the bytes it has there");
MODULE_LICENSE("GPL");
