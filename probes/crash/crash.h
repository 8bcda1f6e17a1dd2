/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PINPOINT_CRASH_H
#define PINPOINT_CRASH_H

#include <linux/kconfig.h>
#include <linux/types.h>

/*
 * Something that must make a kernel complain, die or hang. seconds is how long a
 * stall lasts, 0 for no end. A trigger is possible if this kernel is built to
 * detect it; nothing is claimed of others.
 */
struct pinpoint_trigger {
	const char *name;
	void (*commit)(unsigned int seconds);
	bool possible;
};

/* Each list ends with an entry without a name. */
extern const struct pinpoint_trigger pinpoint_faults[];
extern const struct pinpoint_trigger pinpoint_misuses[];
extern const struct pinpoint_trigger pinpoint_stalls[];

#endif
