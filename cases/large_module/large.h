/* SPDX-License-Identifier: GPL-2.0 */
/* A function that is far from its caller, and from the start of the module's text. */
#ifndef PINPOINT_LARGE_H
#define PINPOINT_LARGE_H

#include <linux/types.h>

u32 pinpoint_far(u32 x);

#endif
