// SPDX-License-Identifier: GPL-2.0
/* target/main.c, compiled again for the target in another layout. */
#include "../target/main.c"
