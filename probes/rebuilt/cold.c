// SPDX-License-Identifier: GPL-2.0
/* target/cold.c once more, for the target in another layout. */
#include "../target/cold.c"
