// SPDX-License-Identifier: GPL-2.0
/* target/call.c, compiled again for the target in another layout. */
#include "../target/call.c"
