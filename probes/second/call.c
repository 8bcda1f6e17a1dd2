// SPDX-License-Identifier: GPL-2.0
/* target/call.c once more, for the second target. */
#include "../target/call.c"
