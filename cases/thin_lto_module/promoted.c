// SPDX-License-Identifier: GPL-2.0
/*
 * A static function, and one that is small enough to be copied into calls.c
 *
 * The copy calls the static function, which therefore needs a global name.
 */
#include <linux/compiler.h>
#include <linux/types.h>

u32 pinpoint_small(u32 x);

static noinline u32 pinpoint_promoted(u32 x)
{
	x ^= x << 13;
	x += 0x1170;
	x ^= x >> 7;
	x += x << 3;
	return x;
}

u32 pinpoint_small(u32 x)
{
	return pinpoint_promoted(x);
}
