/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the files of pinpoint_probe: the sites.
 */
#ifndef PINPOINT_PROBE_H
#define PINPOINT_PROBE_H

#include <linux/atomic.h>
#include <linux/dcache.h>
#include <linux/kprobes.h>
#include <linux/list.h>
#include <linux/types.h>

/**
 * struct pinpoint_site - one requested site, and its result
 * @node: in pinpoint_sites, in the order of the parameter
 * @index: its number in that order
 * @kp: the kprobe; its symbol_name, if any, is @symbol
 * @error: 0 while the kprobe is registered, else the kernel's errno, negative
 * @hits: how often the pre-handler ran and counted
 * @seen: how often it ran while a mutant decided which hits count
 * @ip: the instruction pointer as the pre-handler last saw it
 * @claimed: bytes from kp.addr to the address that the report shows; 0 unless a mutant lies
 * @symbol: SYM or MOD:SYM
 * @spec: its text in the parameter
 */
struct pinpoint_site {
	struct list_head node;
	unsigned int index;
	struct kprobe kp;
	int error;
	atomic_long_t hits;
	atomic_t seen;
	unsigned long ip;
	long claimed;
	char *symbol;
	char spec[];
};

/**
 * struct pinpoint_mutant - a deliberate error
 * @name: value of the parameter mutant
 * @aim: changes the site's kprobe before it is registered, or NULL
 * @arm: is called instead of register_kprobe()
 * @counts: returns false for a hit that the pre-handler must not count, or NULL
 * @hit: an addition to the pre-handler that does what it must not, or NULL
 * @also: registers a kprobe that no site names, once all sites are registered, or NULL
 * @undo: removes what @also registered, or NULL
 */
struct pinpoint_mutant {
	const char *name;
	void (*aim)(struct pinpoint_site *site);
	int (*arm)(struct kprobe *kp);
	bool (*counts)(struct pinpoint_site *site);
	void (*hit)(struct pinpoint_site *site, struct pt_regs *regs);
	void (*also)(void);
	void (*undo)(void);
};

extern struct list_head pinpoint_sites;
extern unsigned int pinpoint_count;

int pinpoint_read_spec(struct pinpoint_site *site);
const struct pinpoint_mutant *pinpoint_mutant(void);
void pinpoint_open_report(struct dentry *dir);

#endif
