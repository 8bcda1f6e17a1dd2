// SPDX-License-Identifier: GPL-2.0
/* target/last.c once more, for the target in another layout. */
#include "../target/last.c"
