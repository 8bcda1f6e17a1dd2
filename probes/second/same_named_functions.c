// SPDX-License-Identifier: GPL-2.0
/*
 * The second target: a function with a unique name, and one whose name the first
 * target has too.
 */
#include "../target/shapes.h"

static u32 pinpoint_loaded;

void pinpoint_fill_data(void)
{
	WRITE_ONCE(pinpoint_loaded, 0x5ec07d);
}

/* Not the first target's pinpoint_leaf(): another size, other results. */
PINPOINT_SHAPE u32 pinpoint_leaf(u32 x)
{
	return pinpoint_mix(pinpoint_mix(x, 0x2eaf), 0x1eaf);
}

PINPOINT_SHAPE u32 pinpoint_second_only(u32 x)
{
	return pinpoint_mix(x, READ_ONCE(pinpoint_loaded));
}

/* The kernel also has a static function of this name (fs/proc/version.c). */
static PINPOINT_SHAPE u32 version_proc_show(u32 x)
{
	return pinpoint_mix(x, 0x4e45);
}

/* In a section of its own, apart from the other functions. */
static __cold PINPOINT_SHAPE u32 pinpoint_second_rare(u32 x)
{
	return pinpoint_mix(x, 0x5a5e);
}

const struct pinpoint_shape pinpoint_shapes[] = {
	{ "leaf", pinpoint_leaf, 1 },
	{ "second_only", pinpoint_second_only, 1 },
	{ "version_proc_show", version_proc_show, 1 },
	{ "second_rare", pinpoint_second_rare, 1 },
	{ }
};
