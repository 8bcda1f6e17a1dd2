// SPDX-License-Identifier: GPL-2.0
/*
 * libpinpoint_preloaded.so - another definition of a function of
 * libpinpoint_one.so, for LD_PRELOAD
 */
#include "shapes.h"

SHAPE unsigned int pinpoint_one_leaf(unsigned int x)
{
	return mix(x, 0x9e10ad);
}
