// SPDX-License-Identifier: GPL-2.0
/*
 * The loader's facts about the targets: lists of equal length, with one value for
 * each target. The limit of charp, 1024 characters, applies to each element here.
 */
#include <linux/kernel.h>
#include <linux/moduleparam.h>

#include "pinned.h"

#define PINPOINT_MOST	128

static unsigned long module_addresses[PINPOINT_MOST];
unsigned int pinpoint_targets;
module_param_array(module_addresses, ulong, &pinpoint_targets, 0444);
MODULE_PARM_DESC(module_addresses, "handles: where each target's struct module is");

static char *module_names[PINPOINT_MOST];
static unsigned int names;
module_param_array(module_names, charp, &names, 0444);
MODULE_PARM_DESC(module_names, "what each target must be called");

static unsigned long module_bases[PINPOINT_MOST];
static unsigned int bases;
module_param_array(module_bases, ulong, &bases, 0444);
MODULE_PARM_DESC(module_bases, "where each target's memory must begin");

static unsigned long module_notes[PINPOINT_MOST];
static unsigned int notes;
module_param_array(module_notes, ulong, &notes, 0444);
MODULE_PARM_DESC(module_notes, "where each target's build-id note is, 0 for a module without one");

/**
 * pinpoint_check_lists() - check that the lists have equal length, and the builds too
 *
 * Return: 0, or -EINVAL if not.
 */
int pinpoint_check_lists(void)
{
	if (names != pinpoint_targets || bases != pinpoint_targets || notes != pinpoint_targets)
		return -EINVAL;
	return pinpoint_check_builds(pinpoint_targets);
}

/**
 * pinpoint_target() - return all facts about one target
 * @index: its position in the lists
 */
struct pinpoint_target pinpoint_target(unsigned int index)
{
	return (struct pinpoint_target) {
		.handle = (struct module *)module_addresses[index],
		.name = module_names[index],
		.base = module_bases[index],
		.note = module_notes[index],
		.build_id = pinpoint_build(index),
	};
}
