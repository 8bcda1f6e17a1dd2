// SPDX-License-Identifier: GPL-2.0
/*
 * libpinpoint_one.so - a DSO whose functions are probed
 */
#define FUNCTION(n) PASTE(pinpoint_one_, n)
#include "numbered_functions_by_macro.h"

EACH_FUNCTION(DEFINE_BOTH)

SHAPE unsigned int pinpoint_one_leaf(unsigned int x)
{
	return mix(x, 0x1eaf);
}

static SHAPE unsigned int pinpoint_one_static(unsigned int x)
{
	return mix(x, 0x57a71c);
}

SHAPE unsigned int pinpoint_one_calls(unsigned int x)
{
	return mix(x, 0xca11) ^ pinpoint_one_static(x) ^ pinpoint_one_leaf(x);
}

/* Data that no process writes; as code it is harmless on every architecture. */
const unsigned int pinpoint_one_constants[4] = { 0x91000000, 0x91000000, 0x91000000, 0x91000000 };
unsigned int pinpoint_one_variables[4] = { 0x91000000, 0x91000000, 0x91000000, 0x91000000 };

/* Two definitions of one IFUNC; its resolver returns the second. */
static SHAPE unsigned int pinpoint_chosen_first(unsigned int x)
{
	return mix(x, 0xf1);
}

static SHAPE unsigned int pinpoint_chosen_second(unsigned int x)
{
	return mix(x, 0xf2);
}

static unsigned int (*pinpoint_chosen_resolver(void))(unsigned int)
{
	unsigned int second = 1;

	__asm__("" : "+r"(second));
	return second ? pinpoint_chosen_second : pinpoint_chosen_first;
}

#ifdef __mips__
/* The C library has no IFUNC there. */
unsigned int pinpoint_chosen(unsigned int x)
{
	return pinpoint_chosen_resolver()(x);
}
#else
unsigned int pinpoint_chosen(unsigned int x) __attribute__((__ifunc__("pinpoint_chosen_resolver")));
#endif

/* Two versions of one name: V1 stays for old programs, V2 is the default. */
__attribute__((__symver__("pinpoint_versioned@PINPOINT_1")))
SHAPE unsigned int pinpoint_versioned_1(unsigned int x)
{
	return mix(x, 0x51);
}

__attribute__((__symver__("pinpoint_versioned@@PINPOINT_2")))
SHAPE unsigned int pinpoint_versioned_2(unsigned int x)
{
	return mix(x, 0x52);
}

const struct shape pinpoint_one_shapes[] = {
	EACH_FUNCTION(NAME_FUNCTION)
	{ "pinpoint_one_leaf", pinpoint_one_leaf },
	{ "pinpoint_one_static", pinpoint_one_static },
	{ "pinpoint_one_calls", pinpoint_one_calls },
	{ }
};
