/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PINPOINT_USER_RUNNER_COMMANDS_H
#define PINPOINT_USER_RUNNER_COMMANDS_H

#include "shapes.h"

typedef unsigned int (*function)(unsigned int x);

function find(const char *name);
void tell_where(const char *name);
void open_library(const char *path, int apart);
void close_library(const char *slot);
void each(unsigned int times);
void unmap(const char *name);
void tell_traced(const char *name, unsigned int times);
void spin(const char *name);
void rest(void);

#endif
