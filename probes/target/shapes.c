// SPDX-License-Identifier: GPL-2.0
/*
 * The shapes of functions on which probes are placed.
 *
 * Each begins with a straight line of instructions that every call runs exactly
 * once, because nothing loops back into it.
 */
#include <linux/jiffies.h>
#include <linux/kernel.h>

/* hex_to_bin() moved from kernel.h to a header of its own. */
#if __has_include(<linux/hex.h>)
#include <linux/hex.h>
#endif

#include "shapes.h"

#define PINPOINT_ROUNDS	5
#define PINPOINT_DEPTH	3

PINPOINT_SHAPE u32 pinpoint_leaf(u32 x)
{
	return pinpoint_mix(x, 0x1eaf);
}

/* A second name for the same address. */
u32 pinpoint_alias(u32 x) __alias(pinpoint_leaf);

static PINPOINT_SHAPE u32 pinpoint_static(u32 x)
{
	return pinpoint_mix(x, 0x57a71c);
}

/* target/twin.c has another function with this name. */
static PINPOINT_SHAPE u32 pinpoint_twin(u32 x)
{
	return pinpoint_mix(x, 0x7101);
}

PINPOINT_SHAPE u32 pinpoint_calls(u32 x)
{
	u32 sum = pinpoint_mix(x, 0xca11);

	sum ^= pinpoint_leaf(sum);
	sum += pinpoint_static(sum);
	return sum ^ 0xca11;
}

PINPOINT_SHAPE u32 pinpoint_loop(u32 x)
{
	unsigned int rounds = PINPOINT_ROUNDS;

	x = pinpoint_mix(x, 0x1009);
	OPTIMIZER_HIDE_VAR(rounds);
	while (rounds--) {
		x ^= x << 7;
		x += rounds;
		barrier();
	}
	return x;
}

PINPOINT_SHAPE u32 pinpoint_recursive(u32 x, unsigned int depth)
{
	x = pinpoint_mix(x, depth);
	if (depth)
		x ^= pinpoint_recursive(x, depth - 1);
	return x + depth;
}

static noinline u32 pinpoint_start_recursion(u32 x)
{
	return pinpoint_recursive(x, PINPOINT_DEPTH);
}

/* Exported by the kernel, and nothing in an idle one calls it. */
static noinline u32 pinpoint_call_clock_t_to_jiffies(u32 x)
{
	return clock_t_to_jiffies(0) ? 0 : x + 0xc10c;
}

/* hex_to_bin() has no branch: it is one straight line from end to end. */
static noinline u32 pinpoint_call_hex_to_bin(u32 x)
{
	return x + hex_to_bin('a' + x % 8);
}

const struct pinpoint_shape pinpoint_shapes[] = {
	{ "leaf", pinpoint_leaf, 1 },
	{ "alias", pinpoint_alias, 1 },
	{ "static", pinpoint_static, 1 },
	{ "twin", pinpoint_twin, 1 },
	{ "other_twin", pinpoint_other_twin, 1 },
	{ "calls", pinpoint_calls, 1 },
	{ "loop", pinpoint_loop, 1 },
	{ "recursive", pinpoint_start_recursion, PINPOINT_DEPTH + 1 },
	{ "branches", pinpoint_branches, 1 },
	{ "picks", pinpoint_picks, 1 },
	{ "indirect", pinpoint_indirect, 1 },
	{ "cold_part", pinpoint_cold_part, 1 },
	{ "cold_taken", pinpoint_cold_taken, 1 },
	{ "reads_data", pinpoint_reads_data, 1 },
	{ "emulated", pinpoint_emulated, 1 },
	{ "carries", pinpoint_carries, 1 },
	{ "counts", pinpoint_counts, 1 },
	{ "keyed", pinpoint_keyed, 1 },
	{ "reads_word", pinpoint_reads_word, 1 },
	{ "register_call", pinpoint_register_call, 1 },
	{ "alternate", pinpoint_alternate, 1 },
	{ "clock_t_to_jiffies", pinpoint_call_clock_t_to_jiffies, 1 },
	{ "hex_to_bin", pinpoint_call_hex_to_bin, 1 },
	{ }
};
