// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_perf - uprobes by perf_event_open(2)
 *
 *	pinpoint_perf [own] FILE p:OFFSET|r:OFFSET...
 *
 * With `own` the uprobes are registered for this program's process alone.
 * For each it prints a line `site=N spec=SPEC errno=E`, E positive or 0; then
 * `ready`. At the end of its standard input it prints each hit that perf recorded
 * as `hit=N pid=P ip=0x... func=0x...` and exits, which removes the probes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST_SITES 64
/* A site has an event on each CPU, or one of this process alone. */
#define MOST_EVENTS (8 * MOST_SITES)
#define RING_PAGES 8
#define DEVICE "/sys/bus/event_source/devices/uprobe/"

static pid_t probed = -1;
static int event_count;
static struct {
	int site;
	struct perf_event_mmap_page *ring;
} events[MOST_EVENTS];

static unsigned long number_in(const char *path, const char *format)
{
	unsigned long number = 0;
	FILE *file = fopen(path, "r");

	if (!file || fscanf(file, format, &number) != 1) {
		perror(path);
		exit(1);
	}
	fclose(file);
	return number;
}

static int open_event(const char *file, const char *spec, int cpu)
{
	struct perf_event_attr attr = {
		.size = sizeof(attr),
		.type = number_in(DEVICE "type", "%lu"),
		.sample_period = 1,
		.sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_RAW,
		.wakeup_events = 1,
		.config1 = (uintptr_t)file,
		.config2 = strtoull(spec + 2, NULL, 0),
	};

	if (*spec == 'r')
		attr.config = 1UL << number_in(DEVICE "format/retprobe", "config:%lu");
	return syscall(SYS_perf_event_open, &attr, probed, cpu, -1, PERF_FLAG_FD_CLOEXEC);
}

static int map_ring(int fd, int site)
{
	size_t size = (1 + RING_PAGES) * sysconf(_SC_PAGESIZE);
	void *ring;

	if (event_count == MOST_EVENTS)
		return E2BIG;
	ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ring == MAP_FAILED)
		return errno;
	events[event_count].site = site;
	events[event_count++].ring = ring;
	return 0;
}

/* Open the events of a site. Returns 0 or the first error. */
static int open_site(const char *file, const char *spec, int site)
{
	int first = probed < 0 ? 0 : -1, end = probed < 0 ? sysconf(_SC_NPROCESSORS_ONLN) : 0;
	int cpu, fd, error = 0;

	/* No CPU of a guest is offline, so they are numbered from 0. */
	for (cpu = first; cpu < end && !error; cpu++) {
		fd = open_event(file, spec, cpu);
		error = fd < 0 ? errno : map_ring(fd, site);
	}
	return error;
}

/*
 * The raw data is a uprobe's trace entry: struct trace_entry, then, of a return
 * probe, the addresses of the function and of the return, in words of the kernel
 * (struct uprobe_trace_entry_head, kernel/trace/trace_uprobe.c, 6.1). The size of
 * struct trace_entry depends on the kernel: PREEMPT_RT's of 6.1 has one more field.
 */
struct sample {
	struct perf_event_header head;
	uint64_t ip;
	uint32_t pid, tid;
	uint32_t raw_size;
	unsigned char raw[64];
} __attribute__((__packed__));

/* The word before the address of the return, which perf has as the sample's ip; 0 if there is none. */
static unsigned long function_in(const struct sample *sample)
{
	unsigned long function = 0, word;
	size_t i, size = sample->raw_size < sizeof(sample->raw) ? sample->raw_size : sizeof(sample->raw);

	for (i = 0; i + sizeof(word) <= size; i += sizeof(word)) {
		memcpy(&word, sample->raw + i, sizeof(word));
		if (i && word == sample->ip)
			return function;
		function = word;
	}
	return 0;
}

static void show_hits(int site, struct perf_event_mmap_page *ring)
{
	struct sample sample;
	uint64_t head, tail, size, i;
	char *data = (char *)ring + sysconf(_SC_PAGESIZE);

	/*
	 * As in tools/include/linux/ring_buffer.h, 6.1: 32-bit MIPS has no atomic load of 64 bits. The load cannot be
	 * torn, because the upper half stays 0 below 4 GiB of records.
	 */
	head = *(volatile __u64 *)&ring->data_head;
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	size = (uint64_t)RING_PAGES * sysconf(_SC_PAGESIZE);
	for (tail = ring->data_tail; tail < head; tail += sample.head.size) {
		for (i = 0; i < sizeof(sample); i++)
			((char *)&sample)[i] = data[(tail + i) % size];
		if (sample.head.type == PERF_RECORD_SAMPLE)
			printf("hit=%d pid=%u ip=%#llx func=%#lx\n", site, sample.pid,
			       (unsigned long long)sample.ip, function_in(&sample));
		if (!sample.head.size)
			break;
	}
}

int main(int argc, char **argv)
{
	char rest[64];
	int i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1 && !strcmp(argv[1], "own")) {
		probed = 0;
		argv++;
		argc--;
	}
	for (i = 2; i < argc && i - 2 < MOST_SITES; i++)
		printf("site=%d spec=%s errno=%d\n", i - 2, argv[i], open_site(argv[1], argv[i], i - 2));
	puts("ready");
	while (fgets(rest, sizeof(rest), stdin))
		;
	for (i = 0; i < event_count; i++)
		show_hits(events[i].site, events[i].ring);
	return 0;
}
