// SPDX-License-Identifier: GPL-2.0
/*
 * Triggers that end in a trap, a panic or a reset. Each is a function of its own
 * that is not inlined, because the traces must name it.
 */
#include <linux/bug.h>
#include <linux/compiler.h>
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/poison.h>
#include <linux/reboot.h>
#include <linux/timer.h>

#include "crash.h"

/* volatile, so that the compiler knows nothing about its value. */
static void *volatile pinpoint_nowhere;
static volatile int pinpoint_zero;
static const int pinpoint_constant = 1;

static noinline void pinpoint_warn(unsigned int seconds)
{
	WARN(1, "pinpoint: asked to warn\n");
}

static noinline void pinpoint_warn_on(unsigned int seconds)
{
	WARN_ON(!pinpoint_nowhere);
}

static noinline void pinpoint_bug(unsigned int seconds)
{
	BUG_ON(!pinpoint_nowhere);
}

static noinline void pinpoint_null_read(unsigned int seconds)
{
	READ_ONCE(*((int *)pinpoint_nowhere + 1));
}

static noinline void pinpoint_null_write(unsigned int seconds)
{
	WRITE_ONCE(*((int *)pinpoint_nowhere + 2), 1);
}

static noinline void pinpoint_null_call(unsigned int seconds)
{
	((void (*)(void))pinpoint_nowhere)();
	barrier();
}

/* On 64 bits a non-canonical address: a general protection fault on x86. */
static noinline void pinpoint_poison_read(unsigned int seconds)
{
	READ_ONCE(*(int *)LIST_POISON1);
}

static noinline void pinpoint_constant_write(unsigned int seconds)
{
	WRITE_ONCE(*(int *)&pinpoint_constant, 0);
}

#if defined(CONFIG_X86)
#define PINPOINT_ILLEGAL	"ud2"
#define PINPOINT_BREAKPOINT	"int3"
#elif defined(CONFIG_PARISC)
#define PINPOINT_ILLEGAL	".long 0xffffffff"
#define PINPOINT_BREAKPOINT	"break 0,0"
#elif defined(CONFIG_ARM)
#define PINPOINT_ILLEGAL	"udf #0"
#define PINPOINT_BREAKPOINT	"bkpt #7"
#elif defined(CONFIG_S390)
/* The kernel names the instruction behind it, which must be of the same function. */
#define PINPOINT_ILLEGAL	".short 0\n\tnopr"
#define PINPOINT_BREAKPOINT	".short 2"
#elif defined(CONFIG_RISCV)
#define PINPOINT_ILLEGAL	".long 0"
#define PINPOINT_BREAKPOINT	"ebreak"
#elif defined(CONFIG_LOONGARCH)
#define PINPOINT_ILLEGAL	".long 0"
#define PINPOINT_BREAKPOINT	"break 0"
#elif defined(CONFIG_MIPS)
#define PINPOINT_ILLEGAL	".word 0xec000000"
#define PINPOINT_BREAKPOINT	"break"
#elif defined(CONFIG_PPC)
#define PINPOINT_ILLEGAL	".long 0"
#define PINPOINT_BREAKPOINT	"trap"
#elif defined(CONFIG_SUPERH)
#define PINPOINT_ILLEGAL	".short 0"
#define PINPOINT_BREAKPOINT	"trapa #0x3a"
#elif defined(CONFIG_SPARC)
#define PINPOINT_ILLEGAL	"illtrap 0"
#define PINPOINT_BREAKPOINT	"ta 0x70"
#else
#define PINPOINT_ILLEGAL	".long 0"
#define PINPOINT_BREAKPOINT	"brk #7"
#endif

static noinline void pinpoint_illegal(unsigned int seconds)
{
	asm volatile(PINPOINT_ILLEGAL);
	unreachable();
}

/* A breakpoint that is not a probe's. */
static noinline void pinpoint_breakpoint(unsigned int seconds)
{
	asm volatile(PINPOINT_BREAKPOINT);
}

static noinline void pinpoint_divide(unsigned int seconds)
{
	pinpoint_zero = 7 / pinpoint_zero;
}

static noinline void pinpoint_panic(unsigned int seconds)
{
	panic("pinpoint: asked to panic");
}

/* A reset without any message. */
static noinline void pinpoint_reset(unsigned int seconds)
{
	emergency_restart();
}

static void pinpoint_expired(struct timer_list *timer)
{
	pinpoint_null_read(0);
}

static DEFINE_TIMER(pinpoint_timer, pinpoint_expired);

/* A fault in an interrupt is a panic after its oops. */
static noinline void pinpoint_interrupt(unsigned int seconds)
{
	mod_timer(&pinpoint_timer, jiffies + 1);
	msleep(1000);
}

static noinline int pinpoint_deeper(volatile int *above)
{
	volatile int here[64];

	here[0] = *above + 1;
	return *above < 0 ? 0 : pinpoint_deeper(here) + here[0];
}

static noinline void pinpoint_recursion(unsigned int seconds)
{
	volatile int depth = 0;

	pinpoint_deeper(&depth);
}

/* Seen on parisc 6.1: the write succeeds although the kernel has this option. */
#define PINPOINT_READ_ONLY \
	(IS_ENABLED(CONFIG_STRICT_MODULE_RWX) && !IS_ENABLED(CONFIG_PARISC))

/* On s390 the first two pages are the CPU's lowcore, which can be read; LIST_POISON1 is there, too. */
#define PINPOINT_NULL_READ	!IS_ENABLED(CONFIG_S390)

/* Whether a division by zero is an exception. */
#define PINPOINT_DIVIDES \
	(IS_ENABLED(CONFIG_X86) || IS_ENABLED(CONFIG_PARISC) || IS_ENABLED(CONFIG_SPARC))

/*
 * On SuperH the kernel takes it for one of user mode, and it runs again
 * (do_reserved_inst(), arch/sh/kernel/traps_32.c, 6.1).
 */
#define PINPOINT_ENDS_ILLEGAL	!IS_ENABLED(CONFIG_SUPERH)

/* The firmware of QEMU's sun4u does not reboot; the kernel then panics. */
#define PINPOINT_RESETS	!IS_ENABLED(CONFIG_SPARC)

const struct pinpoint_trigger pinpoint_faults[] = {
	{ "warn", pinpoint_warn, true },
	{ "warn_on", pinpoint_warn_on, true },
	{ "bug", pinpoint_bug, true },
	{ "null_read", pinpoint_null_read, PINPOINT_NULL_READ },
	{ "null_write", pinpoint_null_write, true },
	{ "null_call", pinpoint_null_call, true },
	{ "poison_read", pinpoint_poison_read, PINPOINT_NULL_READ },
	{ "constant_write", pinpoint_constant_write, PINPOINT_READ_ONLY },
	{ "illegal", pinpoint_illegal, PINPOINT_ENDS_ILLEGAL },
	{ "breakpoint", pinpoint_breakpoint, true },
	{ "divide", pinpoint_divide, PINPOINT_DIVIDES },
	{ "recursion", pinpoint_recursion, IS_ENABLED(CONFIG_VMAP_STACK) },
	{ "panic", pinpoint_panic, true },
	{ "reset", pinpoint_reset, PINPOINT_RESETS },
	{ "interrupt", pinpoint_interrupt, PINPOINT_NULL_READ },
	{ }
};
