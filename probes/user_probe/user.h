/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the files of pinpoint_uprobe: the sites.
 */
#ifndef PINPOINT_USER_H
#define PINPOINT_USER_H

#include <linux/atomic.h>
#include <linux/dcache.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/uprobes.h>

#define PINPOINT_PROCESSES 8

/**
 * struct pinpoint_hits - the hits of one process at one site
 * @tgid: the process, 0 for an entry that is not used
 * @hits: how often the handler ran
 * @returns: how often the return handler ran
 * @ip: the instruction pointer as the handler last saw it
 * @func: the address of the function, as passed to the return handler
 */
struct pinpoint_hits {
	pid_t tgid;
	unsigned long hits;
	unsigned long returns;
	unsigned long ip;
	unsigned long func;
};

/**
 * struct pinpoint_site - one offset into the file
 * @node: in pinpoint_sites, in the order of the parameter
 * @index: its number in that order
 * @offset: bytes from the start of the file
 * @consumer: the consumer that is registered there
 * @handle: the kernel's handle for it, since 6.12
 * @error: 0 while it is registered, else the kernel's errno, negative
 * @claimed: reported as registered, but it is not: a mutant
 * @lock: protects @processes
 * @lost: hits by more processes than there are entries for
 * @processes: its hits, for each process
 * @spec: its text in the parameter
 */
struct pinpoint_site {
	struct list_head node;
	unsigned int index;
	loff_t offset;
	struct uprobe_consumer consumer;
	struct uprobe *handle;
	int error;
	bool claimed;
	spinlock_t lock;
	unsigned long lost;
	struct pinpoint_hits processes[PINPOINT_PROCESSES];
	char spec[];
};

extern struct list_head pinpoint_sites;
extern struct inode *pinpoint_inode;

int pinpoint_register(struct pinpoint_site *site);
void pinpoint_unregister(struct pinpoint_site *site);
void pinpoint_await_gate(void);
void pinpoint_open_gate(void);
void pinpoint_make_report(struct dentry *dir);

#endif
