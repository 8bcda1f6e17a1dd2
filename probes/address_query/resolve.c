// SPDX-License-Identifier: GPL-2.0
/*
 * Resolves symbols inside the kernel, as a probe does that has only a name.
 *
 * Parameter: resolve=SYM,MOD:SYM,... In debugfs the file "resolved" has a line
 * "SYM 0xADDR" for each; 0 for a name that the kernel does not know. For a per-CPU
 * variable it is the address that per_cpu_ptr() takes.
 *
 * kallsyms_lookup_name() is not exported since 5.7. A kprobe finds it, as it finds
 * any other function. register_kprobe() stores the address before it refuses one
 * that ftrace occupies (kernel/kprobes.c; RISC-V, 6.12).
 */
#include <linux/debugfs.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/seq_file.h>
#include <linux/string.h>

#ifdef CONFIG_HAVE_FUNCTION_DESCRIPTORS
#include <asm/sections.h>
#endif

#include "address_query.h"

#define PINPOINT_NAMES	16

static char *resolve[PINPOINT_NAMES];
static unsigned int names;
module_param_array(resolve, charp, &names, 0);
MODULE_PARM_DESC(resolve, "symbols to find: SYM or MOD:SYM");

static unsigned long pinpoint_found[PINPOINT_NAMES];

/* The kprobe may be after a landing pad, which an indirect call has to enter. */
static unsigned long pinpoint_entry(unsigned long address)
{
	char symbol[KSYM_SYMBOL_LEN];
	unsigned long offset = 0;
	char *plus;

	sprint_symbol(symbol, address);
	plus = strchr(symbol, '+');
	if (plus && sscanf(plus, "+0x%lx/", &offset) != 1)
		offset = 0;
	return address - offset;
}

#ifdef CONFIG_HAVE_FUNCTION_DESCRIPTORS
/*
 * An indirect call takes the address and the data pointer from a descriptor. A
 * pointer to an exported function is the kernel's own descriptor of it.
 */
static void *pinpoint_callable(unsigned long address)
{
	static func_desc_t descriptor;

	descriptor = *(func_desc_t *)sprint_symbol;
	descriptor.addr = address;
	return &descriptor;
}
#else
static void *pinpoint_callable(unsigned long address)
{
	return (void *)address;
}
#endif

/**
 * pinpoint_resolve() - look up the symbols that the parameter names
 *
 * Return: 0, or the kernel's errno if there is no kprobe on the kernel's look-up.
 */
int pinpoint_resolve(void)
{
	struct kprobe kp = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long (*look_up)(const char *name);
	unsigned int i;
	int error;

	if (!names)
		return 0;
	error = register_kprobe(&kp);
	if (!error)
		unregister_kprobe(&kp);
	else if (error != -EINVAL || !kp.addr)
		return error;
	look_up = pinpoint_callable(pinpoint_entry((unsigned long)kp.addr));
	for (i = 0; i < names; i++)
		pinpoint_found[i] = look_up(resolve[i]);
	return 0;
}

static int pinpoint_resolved_show(struct seq_file *out, void *unused)
{
	unsigned int i;

	for (i = 0; i < names; i++)
		seq_printf(out, "%s 0x%lx\n", resolve[i], pinpoint_found[i]);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(pinpoint_resolved);

/**
 * pinpoint_open_resolved() - create the file
 * @dir: the module's directory in debugfs
 */
void pinpoint_open_resolved(struct dentry *dir)
{
	debugfs_create_file("resolved", 0400, dir, NULL, &pinpoint_resolved_fops);
}
