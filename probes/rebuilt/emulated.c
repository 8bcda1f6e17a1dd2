// SPDX-License-Identifier: GPL-2.0
/* target/emulated.c, compiled again for the target in another layout. */
#include "../target/emulated.c"
