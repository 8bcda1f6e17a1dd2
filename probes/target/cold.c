// SPDX-License-Identifier: GPL-2.0
/*
 * A function with a part so unlikely that gcc moves it away. If the architecture's
 * gcc splits functions, it goes to pinpoint_cold_part.cold.
 */
#include <linux/compiler.h>

#include "shapes.h"

#define PINPOINT_RARE	0xc01dc01d

/* Two lines, because gcc 12 on ARM gives a return's line no code if its constant takes two instructions. */
static noinline __cold u32 pinpoint_rare(u32 x)
{
	x ^= PINPOINT_RARE;
	return x + (x >> 7);
}

PINPOINT_SHAPE u32 pinpoint_cold_part(u32 x)
{
	u32 sum = pinpoint_mix(x, 0xc01d);

	if (unlikely(x == PINPOINT_RARE)) {
		sum += pinpoint_rare(sum);
		sum ^= pinpoint_rare(sum >> 3);
	}
	return sum + 0xc01d;
}

/* Calls pinpoint_cold_part() so that its cold half runs. */
PINPOINT_SHAPE u32 pinpoint_cold_taken(u32 x)
{
	return pinpoint_mix(x, 0x7a) ^ pinpoint_cold_part(PINPOINT_RARE);
}
