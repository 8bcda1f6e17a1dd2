/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the files of pinpoint_data: the places to read.
 */
#ifndef PINPOINT_ADDRESS_QUERY_H
#define PINPOINT_ADDRESS_QUERY_H

#include <linux/dcache.h>
#include <linux/list.h>

/* The size of the largest variable that can be read, in bytes. */
#define PINPOINT_DATA_MOST	16384

/**
 * struct pinpoint_place - an address to look up and read
 * @node: in pinpoint_places, in the order of the parameter
 * @address: as it was given
 * @size: how many bytes to read there, 0 to read none
 * @cpu: the CPU whose copy of a per-CPU variable at @address is read, or -1
 * @spec: its text in the parameter
 */
struct pinpoint_place {
	struct list_head node;
	unsigned long address;
	unsigned int size;
	int cpu;
	char spec[];
};

extern struct list_head pinpoint_places;

void pinpoint_open_places(struct dentry *dir);

int pinpoint_resolve(void);
void pinpoint_open_resolved(struct dentry *dir);

#endif
