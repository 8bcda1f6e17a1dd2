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
 * @hits: how often the pre-handler ran
 * @ip: the instruction pointer as the pre-handler last saw it
 * @symbol: SYM or MOD:SYM
 * @spec: its text in the parameter
 */
struct pinpoint_site {
	struct list_head node;
	unsigned int index;
	struct kprobe kp;
	int error;
	atomic_long_t hits;
	unsigned long ip;
	char *symbol;
	char spec[];
};

/**
 * struct pinpoint_mutant - a deliberate error
 * @name: value of the parameter mutant
 * @aim: changes the site's kprobe before it is registered, or NULL
 * @arm: is called instead of register_kprobe()
 * @hit: an addition to the pre-handler that does what it must not, or NULL
 */
struct pinpoint_mutant {
	const char *name;
	void (*aim)(struct pinpoint_site *site);
	int (*arm)(struct kprobe *kp);
	void (*hit)(struct pinpoint_site *site, struct pt_regs *regs);
};

extern struct list_head pinpoint_sites;
extern unsigned int pinpoint_count;

int pinpoint_read_spec(struct pinpoint_site *site);
const struct pinpoint_mutant *pinpoint_mutant(void);
void pinpoint_open_report(struct dentry *dir);

#endif
