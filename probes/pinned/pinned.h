/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of pinpoint_pinned share: the targets it was loaded for.
 */
#ifndef PINPOINT_PINNED_H
#define PINPOINT_PINNED_H

#include <linux/module.h>
#include <linux/types.h>

/**
 * struct pinpoint_target - a module that the loader says is loaded
 * @handle: its struct module; nothing but a number until it is validated
 * @name: what it must be called
 * @base: where its memory must begin
 * @note: where its build-id note stands, 0 for a module without one
 * @build_id: what that must say, in hex; "" if any will do
 */
struct pinpoint_target {
	struct module *handle;
	const char *name;
	unsigned long base;
	unsigned long note;
	const char *build_id;
};

extern unsigned int pinpoint_targets;

int pinpoint_check_lists(void);
struct pinpoint_target pinpoint_target(unsigned int index);

int pinpoint_take_targets(void);
void pinpoint_put_targets(void);
bool pinpoint_within_targets(unsigned long address);

bool pinpoint_same_base(const struct pinpoint_target *target);
bool pinpoint_same_build(const struct pinpoint_target *target);

int pinpoint_gate(const char *name);

#endif
