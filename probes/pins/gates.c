// SPDX-License-Identifier: GPL-2.0
/* pinned/gates.c once more, for the module whose exit can be stopped. */
#include "../pinned/gates.c"
