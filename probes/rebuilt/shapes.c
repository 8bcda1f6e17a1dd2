// SPDX-License-Identifier: GPL-2.0
/* target/shapes.c once more, for the target in another layout. */
#include "../target/shapes.c"
