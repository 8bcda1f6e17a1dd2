/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the files of a target module: the shapes that it can call, by name.
 */
#ifndef PINPOINT_SHAPES_H
#define PINPOINT_SHAPES_H

#include <linux/compiler.h>
#include <linux/dcache.h>
#include <linux/types.h>

/*
 * A shape must stay one function under its own name: never inlined, cloned for
 * a constant argument, or merged with a twin of the same code.
 */
#if __has_attribute(__noipa__)
#define PINPOINT_SHAPE noinline __attribute__((__noipa__))
#else
#define PINPOINT_SHAPE noinline
#endif

/**
 * struct pinpoint_shape - one function that can be called by name
 * @name: the name to write to the call file
 * @call: the function; it returns the same value for the same argument on
 *	every architecture and has no side effect but counters
 * @entries: how often @call enters pinpoint_<name>, or, for
 *	clock_t_to_jiffies, the kernel's function of that name
 */
struct pinpoint_shape {
	const char *name;
	u32 (*call)(u32 x);
	unsigned int entries;
};

/* The module's shapes; the last has no name. */
extern const struct pinpoint_shape pinpoint_shapes[];

u32 pinpoint_leaf(u32 x);
u32 pinpoint_alias(u32 x);
u32 pinpoint_calls(u32 x);
u32 pinpoint_loop(u32 x);
u32 pinpoint_recursive(u32 x, unsigned int depth);
u32 pinpoint_branches(u32 x);
u32 pinpoint_picks(u32 x);
u32 pinpoint_indirect(u32 x);
u32 pinpoint_cold_part(u32 x);
u32 pinpoint_cold_taken(u32 x);
u32 pinpoint_other_twin(u32 x);
u32 pinpoint_reads_data(u32 x);
u32 pinpoint_emulated(u32 x);
u32 pinpoint_carries(u32 x);
u32 pinpoint_counts(u32 x);
u32 pinpoint_keyed(u32 x);
u32 pinpoint_reads_word(u32 x);
u32 pinpoint_register_call(u32 x);
u32 pinpoint_alternate(u32 x);
u32 pinpoint_second_only(u32 x);
void pinpoint_fill_data(void);

void pinpoint_open_calls(struct dentry *dir);

/*
 * Computes the same value with more instructions, so that later ones are farther
 * from the function's start: the other build of pinpoint_target (rebuilt/Kbuild).
 */
static __always_inline u32 pinpoint_detour(u32 x)
{
#ifdef PINPOINT_OTHER_LAYOUT
	x = ~x;
	OPTIMIZER_HIDE_VAR(x);
	x = ~x;
	OPTIMIZER_HIDE_VAR(x);
#endif
	return x;
}

/*
 * A dozen or more instructions in one straight line, on every architecture. It has
 * no multiplication, which is a call of a millicode routine on parisc.
 */
static __always_inline u32 pinpoint_mix(u32 x, u32 salt)
{
	x = pinpoint_detour(x);
	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	x += salt;
	x ^= x >> 11;
	x += x << 3;
	return x;
}

#endif
