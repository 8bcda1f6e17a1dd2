// SPDX-License-Identifier: GPL-2.0
/*
 * A uprobe at each site, by inode and offset as the kernel's interface requires.
 */
#include <linux/err.h>
#include <linux/module.h>
#include <linux/ptrace.h>
#include <linux/sched.h>

#include "user.h"

static struct pinpoint_hits *pinpoint_of_current(struct pinpoint_site *site)
{
	struct pinpoint_hits *each;

	for (each = site->processes; each < site->processes + PINPOINT_PROCESSES; each++) {
		if (!each->tgid)
			each->tgid = current->tgid;
		if (each->tgid == current->tgid)
			return each;
	}
	site->lost++;
	return NULL;
}

static int pinpoint_count_hit(struct uprobe_consumer *consumer, struct pt_regs *regs)
{
	struct pinpoint_site *site = container_of(consumer, struct pinpoint_site, consumer);
	struct pinpoint_hits *hits;

	spin_lock(&site->lock);
	hits = pinpoint_of_current(site);
	if (hits) {
		hits->hits++;
		hits->ip = instruction_pointer(regs);
	}
	spin_unlock(&site->lock);
	pinpoint_await_gate();
	return 0;
}

static int pinpoint_count_return(struct uprobe_consumer *consumer, unsigned long func)
{
	struct pinpoint_site *site = container_of(consumer, struct pinpoint_site, consumer);
	struct pinpoint_hits *hits;

	spin_lock(&site->lock);
	hits = pinpoint_of_current(site);
	if (hits) {
		hits->returns++;
		hits->func = func;
	}
	spin_unlock(&site->lock);
	return 0;
}

#ifdef PINPOINT_UPROBE_DATA
static int pinpoint_hit(struct uprobe_consumer *consumer, struct pt_regs *regs, __u64 *data)
{
	return pinpoint_count_hit(consumer, regs);
}

static int pinpoint_returned(struct uprobe_consumer *consumer, unsigned long func, struct pt_regs *regs,
			     __u64 *data)
{
	return pinpoint_count_return(consumer, func);
}
#else
static int pinpoint_hit(struct uprobe_consumer *consumer, struct pt_regs *regs)
{
	return pinpoint_count_hit(consumer, regs);
}

static int pinpoint_returned(struct uprobe_consumer *consumer, unsigned long func, struct pt_regs *regs)
{
	return pinpoint_count_return(consumer, func);
}
#endif

/**
 * pinpoint_register() - register a uprobe at a site
 * @site: its spec decides whether it is also a return probe
 *
 * Return: 0, or the kernel's errno, negative.
 */
int pinpoint_register(struct pinpoint_site *site)
{
	site->consumer.handler = pinpoint_hit;
	if (*site->spec == 'r')
		site->consumer.ret_handler = pinpoint_returned;
#ifdef PINPOINT_UPROBE_HANDLE
	site->handle = uprobe_register(pinpoint_inode, site->offset, 0, &site->consumer);
	return PTR_ERR_OR_ZERO(site->handle);
#else
	return uprobe_register(pinpoint_inode, site->offset, &site->consumer);
#endif
}

/**
 * pinpoint_unregister() - remove the uprobe of a site and wait for its hits
 * @site: a registered one
 */
void pinpoint_unregister(struct pinpoint_site *site)
{
#ifdef PINPOINT_UPROBE_HANDLE
	uprobe_unregister_nosync(site->handle, &site->consumer);
	uprobe_unregister_sync();
#else
	uprobe_unregister(pinpoint_inode, site->offset, &site->consumer);
#endif
}
