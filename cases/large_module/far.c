// SPDX-License-Identifier: GPL-2.0
/*
 * A function that calls one of the kernel, through a stub if that is out of reach
 */
#include <linux/kernel.h>
/* hex_to_bin() moved from kernel.h to a header of its own. */
#if __has_include(<linux/hex.h>)
#include <linux/hex.h>
#endif

#include "large.h"

u32 pinpoint_far(u32 x)
{
	return x + hex_to_bin('a' + x % 4);
}
