// SPDX-License-Identifier: GPL-2.0
/* probe/sites.c once more, for the module that is loaded precompiled. */
#include "../probe/sites.c"
