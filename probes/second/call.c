// SPDX-License-Identifier: GPL-2.0
/* target/call.c, compiled again for the second target. */
#include "../target/call.c"
