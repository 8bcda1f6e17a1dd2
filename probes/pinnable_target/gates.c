// SPDX-License-Identifier: GPL-2.0
/* pinned/gates.c, compiled again for the module whose exit can be stopped. */
#include "../pinned/gates.c"
