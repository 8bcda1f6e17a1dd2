// SPDX-License-Identifier: GPL-2.0
/* target/twin.c, compiled again for the target in another layout. */
#include "../target/twin.c"
