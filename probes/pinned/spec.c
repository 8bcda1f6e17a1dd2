// SPDX-License-Identifier: GPL-2.0
/*
 * A site in the form of a precompiled probe: section + offset. It is written
 * SECTION+0xOFF, where SECTION is an index, from 0, into section_addresses.
 */
#include <linux/moduleparam.h>

#include "pinned.h"
#include "../probe/base_index_plus_offset.h"

static unsigned long section_addresses[256];
static unsigned int section_count;
module_param_array(section_addresses, ulong, &section_count, 0444);
MODULE_PARM_DESC(section_addresses, "where the sections are; must come before the sites");

/**
 * pinpoint_read_spec() - fill a site's kprobe with the sum of section and offset
 * @site: has @spec, and in @symbol a copy of it that may be cut up
 *
 * Return: 0, or -EINVAL for a malformed site.
 */
int pinpoint_read_spec(struct pinpoint_site *site)
{
	return pinpoint_read_indexed(site, section_addresses, section_count);
}

/* The sites came with the parameters and are freed with them (pinpoint_free_sites()). */
int pinpoint_place_sites(void)
{
	return 0;
}

void pinpoint_free_placed_sites(void)
{
}
