// SPDX-License-Identifier: GPL-2.0
/*
 * Makes a site for each place in the table. Each kprobe gets its own address, as
 * the sum of its section's address and its offset.
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "build_table.h"
#include "../pinned/pinned.h"
#include "../probe/probe.h"

#define PINPOINT_SPEC	96

static unsigned long mutant_shift[16];
static unsigned int mutant_shifts;
module_param_array(mutant_shift, ulong, &mutant_shifts, 0444);
MODULE_PARM_DESC(mutant_shift, "bytes that each site is too far, for a mutant");

static bool mutant_one_base;
module_param(mutant_one_base, bool, 0444);
MODULE_PARM_DESC(mutant_one_base, "take the first section of a target as the base of every offset");

LIST_HEAD(pinpoint_sites);
unsigned int pinpoint_count;

int pinpoint_check_builds(unsigned int targets)
{
	return targets == pinpoint_build_count ? 0 : -EINVAL;
}

const char *pinpoint_build(unsigned int index)
{
	return index < pinpoint_build_count ? pinpoint_builds[index].build_id : "";
}

/* The offset into the section; with a table of symbols, the symbol's plus the place's. */
static unsigned long pinpoint_offset(const struct pinpoint_build *build,
				     const struct pinpoint_place *place)
{
#ifdef PINPOINT_WITH_SYMBOLS
	unsigned int i;

	for (i = 0; i < build->symbol_count; i++)
		if (!strcmp(build->symbols[i].name, place->symbol))
			return build->symbols[i].offset + place->offset;
#endif
	return place->offset;
}

static int pinpoint_add(unsigned int target, const struct pinpoint_place *place)
{
	const struct pinpoint_build *build = &pinpoint_builds[target];
	unsigned long offset = pinpoint_offset(build, place);
	unsigned long base = pinpoint_section_address(target, mutant_one_base ? 0 : place->section);
	struct pinpoint_site *site;

	if (!base)
		return -ESTALE;
	site = kzalloc(sizeof(*site) + PINPOINT_SPEC, GFP_KERNEL);
	if (!site)
		return -ENOMEM;
	snprintf(site->spec, PINPOINT_SPEC, "%u/%s+0x%lx", target, build->sections[place->section], offset);
	if (pinpoint_count < mutant_shifts)
		offset += mutant_shift[pinpoint_count];
	site->kp.addr = (kprobe_opcode_t *)(base + offset);
	site->index = pinpoint_count++;
	list_add_tail(&site->node, &pinpoint_sites);
	return 0;
}

/**
 * pinpoint_place_sites() - make the sites of all targets, to which references are held
 *
 * Return: 0; -ESTALE if a target lacks a section; -ENOMEM.
 */
int pinpoint_place_sites(void)
{
	unsigned int target, i;
	int error;

	for (target = 0; target < pinpoint_build_count; target++) {
		for (i = 0; i < pinpoint_builds[target].place_count; i++) {
			error = pinpoint_add(target, &pinpoint_builds[target].places[i]);
			if (error)
				return error;
		}
	}
	return 0;
}

void pinpoint_free_placed_sites(void)
{
	struct pinpoint_site *site, *next;

	list_for_each_entry_safe(site, next, &pinpoint_sites, node) {
		list_del(&site->node);
		kfree(site);
	}
}
