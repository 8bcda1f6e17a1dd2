// SPDX-License-Identifier: GPL-2.0
/*
 * The builds that the sites were computed for. This probe gets them, as it gets the
 * sites, in parameters; pinpoint_precompiled has both in its own memory.
 */
#include <linux/moduleparam.h>

#include "pinned.h"

static char *module_build_ids[128];
static unsigned int build_ids;
module_param_array(module_build_ids, charp, &build_ids, 0444);
MODULE_PARM_DESC(module_build_ids, "the builds that the sites were computed for, in hex; may be left out");

/**
 * pinpoint_check_builds() - check that there is a build for each target, or none at all
 * @targets: the number of targets
 *
 * Return: 0, or -EINVAL if not.
 */
int pinpoint_check_builds(unsigned int targets)
{
	return !build_ids || build_ids == targets ? 0 : -EINVAL;
}

/**
 * pinpoint_build() - return the build-id that a target must have, in hex; "" for any
 * @index: the target's position in the lists
 */
const char *pinpoint_build(unsigned int index)
{
	return build_ids ? module_build_ids[index] : "";
}
