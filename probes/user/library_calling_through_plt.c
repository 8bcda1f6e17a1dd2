// SPDX-License-Identifier: GPL-2.0
/*
 * libpinpoint_two.so - a second DSO, which calls the first through its PLT
 */
#define FUNCTION(n) PASTE(pinpoint_two_, n)
#include "numbered_functions_by_macro.h"

EACH_FUNCTION(DEFINE_BOTH)

SHAPE unsigned int pinpoint_two_leaf(unsigned int x)
{
	return mix(x, 0x1eaf2);
}

SHAPE unsigned int pinpoint_two_calls(unsigned int x)
{
	return mix(x, 0xca12) ^ pinpoint_one_leaf(x);
}

const struct shape pinpoint_two_shapes[] = {
	EACH_FUNCTION(NAME_FUNCTION)
	{ "pinpoint_two_leaf", pinpoint_two_leaf },
	{ "pinpoint_two_calls", pinpoint_two_calls },
	{ }
};
