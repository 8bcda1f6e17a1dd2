// SPDX-License-Identifier: GPL-2.0
/* target/last.c, compiled again for the second target. */
#include "../target/last.c"
