// SPDX-License-Identifier: GPL-2.0
/* pinned_gates.c once more, for the module whose exit can be stopped. */
#include "pinned_gates.c"
