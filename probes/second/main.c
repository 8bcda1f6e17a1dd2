// SPDX-License-Identifier: GPL-2.0
/* target/main.c, compiled again for the second target. */
#include "../target/main.c"
