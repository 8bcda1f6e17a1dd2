/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the target program and its DSOs: shapes, by name.
 */
#ifndef PINPOINT_USER_SHAPES_H
#define PINPOINT_USER_SHAPES_H

/* A shape stays one function under its own name: never inlined or cloned. */
#define SHAPE __attribute__((__noipa__))
#define HIDDEN __attribute__((__visibility__("hidden")))
#define STRING_(text) #text
#define STRING(text) STRING_(text)
#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)

/**
 * struct shape - one function that can be called by name
 * @name: the symbol's name
 * @call: the function; for one argument it returns the same value in every build
 */
struct shape {
	const char *name;
	unsigned int (*call)(unsigned int x);
};

/* The shapes of each file; the last has no name. */
extern const struct shape pinpoint_one_shapes[];
extern const struct shape pinpoint_two_shapes[];
extern const struct shape pinpoint_runner_shapes[];

unsigned int pinpoint_one_leaf(unsigned int x);
unsigned int pinpoint_two_leaf(unsigned int x);
unsigned int pinpoint_chosen(unsigned int x);
unsigned int pinpoint_versioned(unsigned int x);

/* Computes the same value with more instructions: the rebuilt variant. */
static inline __attribute__((__always_inline__)) unsigned int detour(unsigned int x)
{
#ifdef PINPOINT_OTHER_LAYOUT
	x = ~x;
	__asm__("" : "+r"(x));
	x = ~x;
	__asm__("" : "+r"(x));
#endif
	return x;
}

static inline __attribute__((__always_inline__)) unsigned int mix(unsigned int x, unsigned int salt)
{
	x = detour(x);
	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	x += salt;
	x ^= x >> 11;
	x += x << 3;
	return x;
}

#endif
