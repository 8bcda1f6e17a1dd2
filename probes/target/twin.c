// SPDX-License-Identifier: GPL-2.0
/*
 * A static function whose name target/shapes.c uses for another one, so that one
 * module has two symbols pinpoint_twin.
 */
#include "shapes.h"

static PINPOINT_SHAPE u32 pinpoint_twin(u32 x)
{
	return pinpoint_mix(x, 0x7102);
}

PINPOINT_SHAPE u32 pinpoint_other_twin(u32 x)
{
	u32 sum = pinpoint_mix(x, 0x07e4);

	return sum ^ pinpoint_twin(sum);
}
