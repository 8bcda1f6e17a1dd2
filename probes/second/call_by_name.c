// SPDX-License-Identifier: GPL-2.0
/* target/call_by_name.c, compiled again for the second target. */
#include "../target/call_by_name.c"
