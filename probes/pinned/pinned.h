/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the files of pinpoint_pinned: the targets for which it was loaded.
 */
#ifndef PINPOINT_PINNED_H
#define PINPOINT_PINNED_H

#include <linux/module.h>
#include <linux/types.h>

/**
 * struct pinpoint_target - a module that is loaded, according to the loader
 * @handle: its struct module; only a number until it is validated
 * @name: the name that it must have
 * @base: where its memory must begin
 * @note: the address of its build-id note, 0 for a module without one
 * @build_id: the build-id that it must have, in hex; "" if any is accepted
 */
struct pinpoint_target {
	struct module *handle;
	const char *name;
	unsigned long base;
	unsigned long note;
	const char *build_id;
};

extern unsigned int pinpoint_targets;

int pinpoint_check_builds(unsigned int targets);
const char *pinpoint_build(unsigned int index);

int pinpoint_check_lists(void);
struct pinpoint_target pinpoint_target(unsigned int index);

int pinpoint_take_targets(void);
void pinpoint_put_targets(void);
bool pinpoint_within_targets(unsigned long address);

bool pinpoint_same_base(const struct pinpoint_target *target);
bool pinpoint_same_build(const struct pinpoint_target *target);

int pinpoint_place_sites(void);
void pinpoint_free_placed_sites(void);

int pinpoint_gate(const char *name);

#endif
