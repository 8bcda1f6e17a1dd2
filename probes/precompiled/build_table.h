/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What is known of the targets when the probe is compiled: for each, its build-id,
 * the names of some sections, and offsets into them. Nothing else, not even the
 * target's name: the loader's first target is builds[0], and so on.
 */
#ifndef PINPOINT_BUILD_TABLE_H
#define PINPOINT_BUILD_TABLE_H

/**
 * struct pinpoint_place - a place for a kprobe, in one build
 * @section: index into the build's sections
 * @offset: bytes from the section's start
 * @symbol: NULL; in the module that relocates by hand, a symbol of its own table
 *	to which @offset is relative instead
 */
struct pinpoint_place {
	unsigned int section;
	unsigned long offset;
#ifdef PINPOINT_WITH_SYMBOLS
	const char *symbol;
#endif
};

#ifdef PINPOINT_WITH_SYMBOLS
/**
 * struct pinpoint_symbol - one function of a target
 * @name: its name
 * @section: index into the build's sections
 * @offset: bytes from the section's start
 */
struct pinpoint_symbol {
	const char *name;
	unsigned int section;
	unsigned long offset;
};
#endif

/**
 * struct pinpoint_build - one build of one target
 * @build_id: in hex
 * @sections: names of the sections; the sections of the places come first
 * @probed_sections: how many of them the places use
 * @places: where kprobes are to be registered
 * @place_count: how many
 */
struct pinpoint_build {
	const char *build_id;
	const char *const *sections;
	unsigned int probed_sections;
	const struct pinpoint_place *places;
	unsigned int place_count;
#ifdef PINPOINT_WITH_SYMBOLS
	const struct pinpoint_symbol *symbols;
	unsigned int symbol_count;
#endif
};

extern const struct pinpoint_build pinpoint_builds[];
extern const unsigned int pinpoint_build_count;

/**
 * pinpoint_section_address() - find where a target's section is loaded
 * @target: index of the target, to which a reference is held
 * @section: index into its build's sections
 *
 * Return: the address, or 0 for a section that the target does not have.
 */
unsigned long pinpoint_section_address(unsigned int target, unsigned int section);

#endif
