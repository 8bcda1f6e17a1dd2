/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of pinpoint_data share: the places asked about.
 */
#ifndef PINPOINT_DATA_H
#define PINPOINT_DATA_H

#include <linux/dcache.h>
#include <linux/list.h>

/* More bytes than this are no variable. */
#define PINPOINT_DATA_MOST	16384

/**
 * struct pinpoint_place - an address asked about
 * @node: in pinpoint_places, in the order asked for
 * @address: as it was given
 * @size: how many bytes to read there, 0 to read none
 * @cpu: whose copy of a per-CPU variable at @address is meant, or -1
 * @spec: the words it was asked for with
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

#endif
