// SPDX-License-Identifier: GPL-2.0
/* target/main.c once more, for the second target. */
#include "../target/main.c"
