// SPDX-License-Identifier: GPL-2.0
/* target/last.c once more, for the second target. */
#include "../target/last.c"
