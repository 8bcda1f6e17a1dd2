// SPDX-License-Identifier: GPL-2.0
/*
 * Unexported data with known values, one word for each kind of section.
 */
#include <linux/cache.h>
#include <linux/cpumask.h>
#include <linux/kernel.h>
#include <linux/moduleparam.h>
#include <linux/percpu.h>
#include <asm/page.h>

#include "shapes.h"

/* __used, because gcc would put data that nothing writes into .rodata. */
static u32 pinpoint_data_word __used = 0x50494e01;
static u32 pinpoint_bss_word;
static const u32 pinpoint_rodata_word = 0x50494e03;
static DEFINE_PER_CPU(u32, pinpoint_percpu_word) = 0x50494e04;

/*
 * The relocated address of the per-CPU word, because sysfs shows no address of a
 * module's per-CPU section.
 */
static u32 __percpu *pinpoint_percpu_place __used = &pinpoint_percpu_word;

/**
 * pinpoint_fill_data() - set the words whose values are not in the file
 *
 * 0x50494e02 in .bss; in each CPU's copy of the per-CPU word its initial value
 * plus the CPU's number times 0x100.
 */
void pinpoint_fill_data(void)
{
	unsigned int cpu;

	WRITE_ONCE(pinpoint_bss_word, 0x50494e02);
	for_each_possible_cpu(cpu)
		per_cpu(pinpoint_percpu_word, cpu) += cpu * 0x100;
}

/* The sum is the same on every CPU, because the first CPU's per-CPU word is read. */
PINPOINT_SHAPE u32 pinpoint_reads_data(u32 x)
{
	u32 sum = pinpoint_mix(x, 0xda7a);

	sum += READ_ONCE(pinpoint_data_word);
	sum ^= READ_ONCE(pinpoint_bss_word);
	sum += READ_ONCE(pinpoint_rodata_word);
	sum ^= READ_ONCE(per_cpu(pinpoint_percpu_word, cpumask_first(cpu_possible_mask)));
	return sum;
}

/* /sys/module/MODULE/parameters/data: lines "NAME ADDRESS", as this code has them. */
static int pinpoint_tell_data(char *out, const struct kernel_param *unused)
{
	return scnprintf(out, PAGE_SIZE,
			 "pinpoint_data_word 0x%lx\npinpoint_bss_word 0x%lx\n"
			 "pinpoint_rodata_word 0x%lx\npinpoint_percpu_word 0x%lx\n",
			 (unsigned long)&pinpoint_data_word, (unsigned long)&pinpoint_bss_word,
			 (unsigned long)&pinpoint_rodata_word,
			 (unsigned long)&pinpoint_percpu_word);
}

static const struct kernel_param_ops pinpoint_data_ops = {
	.get = pinpoint_tell_data,
};
module_param_cb(data, &pinpoint_data_ops, NULL, 0400);
