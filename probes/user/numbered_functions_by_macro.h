/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The functions of one target file, generated from one list.
 *
 * A file that includes this defines FUNCTION(number), the name of a function.
 * Every function begins with a straight line of instructions that each call
 * runs exactly once. The list is not in the order of the numbers, so that a
 * linker that sorts sections by name changes the order of the functions.
 */
#ifndef PINPOINT_USER_NUMBERED_FUNCTIONS_BY_MACRO_H
#define PINPOINT_USER_NUMBERED_FUNCTIONS_BY_MACRO_H

#include "shapes.h"

#define EACH_FUNCTION(F) \
	F(07) F(36) F(17) F(46) F(27) F(08) F(37) F(18) \
	F(47) F(28) F(09) F(38) F(19) F(00) F(29) F(10) \
	F(39) F(20) F(01) F(30) F(11) F(40) F(21) F(02) \
	F(31) F(12) F(41) F(22) F(03) F(32) F(13) F(42) \
	F(23) F(04) F(33) F(14) F(43) F(24) F(05) F(34) \
	F(15) F(44) F(25) F(06) F(35) F(16) F(45) F(26)

/* A function that nothing calls; a linker with garbage collection drops it. */
#define DEFINE_SPARE(n) \
	SHAPE HIDDEN unsigned int PASTE(FUNCTION(n), _spare)(unsigned int x) \
	{ \
		return mix(x, 0x5a0 + 1##n) + (1##n & 1); \
	}

#define DEFINE_FUNCTION(n) \
	SHAPE unsigned int FUNCTION(n)(unsigned int x) \
	{ \
		x = mix(x, 1##n); \
		if ((1##n & 3) == 0) \
			x = mix(x, 0x77 + 1##n); \
		if ((1##n & 5) == 1) \
			x = mix(mix(x, 0x99), 1##n); \
		return x + 1##n; \
	}

#define DEFINE_BOTH(n) DEFINE_FUNCTION(n) DEFINE_SPARE(n)

#define NAME_FUNCTION(n) { STRING(FUNCTION(n)), FUNCTION(n) },

#endif
