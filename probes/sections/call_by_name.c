// SPDX-License-Identifier: GPL-2.0
/* target/call_by_name.c, compiled again for the module built with -ffunction-sections. */
#include "../target/call_by_name.c"
