/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How often each outcome occurred, counted by several processes.
 */
#ifndef PINPOINT_SHARED_OUTCOME_COUNTS_H
#define PINPOINT_SHARED_OUTCOME_COUNTS_H

#include <stddef.h>

void *share(size_t size);
void share_outcomes(void);
void count(const char *what, const char *outcome);
void count_error(const char *what, int error);
void tell_outcomes(void);

#endif
