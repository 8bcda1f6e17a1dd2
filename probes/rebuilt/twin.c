// SPDX-License-Identifier: GPL-2.0
/* target/twin.c once more, for the target in another layout. */
#include "../target/twin.c"
