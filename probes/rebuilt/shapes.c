// SPDX-License-Identifier: GPL-2.0
/* target/shapes.c, compiled again for the target in another layout. */
#include "../target/shapes.c"
