// SPDX-License-Identifier: GPL-2.0
/* target/cold.c, compiled again for the target in another layout. */
#include "../target/cold.c"
