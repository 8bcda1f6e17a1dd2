// SPDX-License-Identifier: GPL-2.0
/*
 * Shapes whose flow of control divides: branches taken and not taken, forward and
 * backward, calls in their arms, a choice without a branch.
 *
 * When it is called with 0 to 7, each runs all of its instructions.
 */
#include <linux/compiler.h>

#include "shapes.h"

#define PINPOINT_TURNS	3

/* A call in one arm, arithmetic in the other, and a loop with a branch in it. */
PINPOINT_SHAPE u32 pinpoint_branches(u32 x)
{
	u32 sum = pinpoint_mix(x, 0xb4a2);
	unsigned int turn;

	if (x & 1) {
		sum ^= pinpoint_leaf(sum);
		barrier();
	} else {
		sum += 0x1000;
		barrier();
	}
	for (turn = 0; turn < PINPOINT_TURNS; turn++) {
		OPTIMIZER_HIDE_VAR(turn);
		if ((x ^ turn) & 2)
			sum += pinpoint_leaf(turn);
		else
			sum ^= sum << 3;
		barrier();
	}
	return sum;
}

/* The larger and the smaller of two: by an instruction that skips or selects. */
PINPOINT_SHAPE u32 pinpoint_picks(u32 x)
{
	u32 other = x ^ 5;
	u32 larger, smaller;

	OPTIMIZER_HIDE_VAR(other);
	larger = x > other ? x : other;
	smaller = x < other ? x : other;
	return pinpoint_mix(larger, 0x91c5) - smaller;
}

static u32 (*pinpoint_callee)(u32 x) = pinpoint_leaf;

/* A call to an address in a register. */
PINPOINT_SHAPE u32 pinpoint_indirect(u32 x)
{
	return pinpoint_mix(x, 0x14d1) ^ READ_ONCE(pinpoint_callee)(x);
}
