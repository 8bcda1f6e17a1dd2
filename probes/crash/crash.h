/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PINPOINT_CRIMES_H
#define PINPOINT_CRIMES_H

#include <linux/kconfig.h>
#include <linux/types.h>

/*
 * Something that a kernel must complain of, die of or hang on; seconds is how
 * long what lasts is to last, 0 for ever. A trigger that this kernel would not
 * notice is not possible: nothing is claimed of it.
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
