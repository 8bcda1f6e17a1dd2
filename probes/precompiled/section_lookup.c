// SPDX-License-Identifier: GPL-2.0
/*
 * Where a section of a target is loaded. Where the layout of the kernel's own
 * record is known (struct module_sect_attrs, kernel/module/sysfs.c, 6.1), the probe
 * reads it under its reference to the target. Elsewhere the addresses come from the
 * loader, which read them from sysfs and holds the files open as tokens.
 */
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "build_table.h"
#include "../pinned/pinned.h"

#ifdef PINPOINT_SECT_ATTRS
#include "sect_attrs.h"

MODULE_INFO(section_lookup, "kernel");

unsigned long pinpoint_section_address(unsigned int target, unsigned int section)
{
	const struct module_sect_attrs *known = pinpoint_target(target).handle->sect_attrs;
	const char *name = pinpoint_builds[target].sections[section];
	unsigned int i;

	for (i = 0; known && i < known->nsections; i++)
		if (!strcmp(known->attrs[i].battr.attr.name, name))
			return known->attrs[i].address;
	return 0;
}
#else
MODULE_INFO(section_lookup, "loader");

static unsigned long section_addresses[64];
static unsigned int section_count;
module_param_array(section_addresses, ulong, &section_count, 0444);
MODULE_PARM_DESC(section_addresses, "where the probed sections are: all of the first target, then of the second");

unsigned long pinpoint_section_address(unsigned int target, unsigned int section)
{
	unsigned int i, first = 0;

	for (i = 0; i < target; i++)
		first += pinpoint_builds[i].probed_sections;
	return first + section < section_count ? section_addresses[first + section] : 0;
}
#endif
