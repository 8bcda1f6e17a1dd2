// SPDX-License-Identifier: GPL-2.0
/*
 * The functions of the target program itself.
 */
#define FUNCTION(n) PASTE(pinpoint_runner_, n)
#include "numbered_functions_by_macro.h"

EACH_FUNCTION(DEFINE_BOTH)

SHAPE unsigned int pinpoint_runner_leaf(unsigned int x)
{
	return mix(x, 0x1eaf0);
}

static SHAPE unsigned int pinpoint_runner_static(unsigned int x)
{
	return mix(x, 0x57a70);
}

#ifndef PINPOINT_STATIC
/* Calls libpinpoint_one.so through the program's PLT. */
SHAPE unsigned int pinpoint_runner_calls(unsigned int x)
{
	return mix(x, 0xca10) ^ pinpoint_one_leaf(x);
}

SHAPE unsigned int pinpoint_runner_chosen(unsigned int x)
{
	return mix(x, 0xc0) ^ pinpoint_chosen(x);
}

SHAPE unsigned int pinpoint_runner_versioned(unsigned int x)
{
	return mix(x, 0x5e) ^ pinpoint_versioned(x);
}
#endif

const struct shape pinpoint_runner_shapes[] = {
	EACH_FUNCTION(NAME_FUNCTION)
	{ "pinpoint_runner_leaf", pinpoint_runner_leaf },
	{ "pinpoint_runner_static", pinpoint_runner_static },
#ifndef PINPOINT_STATIC
	{ "pinpoint_runner_calls", pinpoint_runner_calls },
	{ "pinpoint_runner_chosen", pinpoint_runner_chosen },
	{ "pinpoint_runner_versioned", pinpoint_runner_versioned },
#endif
	{ }
};
