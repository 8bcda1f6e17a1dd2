// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_pages - the pages of one file that processes have mapped
 *
 *	pinpoint_pages FILE PID:OFFSET[,OFFSET...]...
 *	pinpoint_pages FILE PID=OFFSET[,OFFSET...]...
 *
 * For each executable mapping of the file it prints a line with start, end and
 * offset in the file. Then, for each page that contains one of the offsets, it
 * prints the page's address, its offset in the file, its entry in
 * /proc/PID/pagemap, and its bytes, read through /proc/PID/mem. FILE may be
 * DEV:INODE, both in decimal, for a file that has no name any more. With `=`
 * it also prints the pages of mappings that are not executable.
 */
#define _FILE_OFFSET_BITS 64
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static unsigned long long wanted_device, wanted_inode;
static unsigned long page_size;

static void fail(const char *what)
{
	fprintf(stderr, "pinpoint_pages: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_of(int pid, const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail(path);
	return fd;
}

static int wanted(const char *offsets, uint64_t page)
{
	while (offsets) {
		if (strtoull(offsets, NULL, 0) / page_size == page / page_size)
			return 1;
		offsets = strchr(offsets, ',');
		offsets = offsets ? offsets + 1 : NULL;
	}
	return 0;
}

static void show_page(int pid, uint64_t address, uint64_t offset)
{
	unsigned char content[page_size];
	uint64_t entry = 0;
	int mem = open_of(pid, "mem"), map = open_of(pid, "pagemap");
	unsigned long i;
	ssize_t got;

	/*
	 * pread() refuses an offset of which the upper bit is set, as addresses of
	 * libraries on 64-bit SPARC have. There, lseek() sets such an offset and
	 * returns its lower 32 bits.
	 */
	got = lseek(mem, address, SEEK_SET) == -1 ? -1 : read(mem, content, page_size);
	if (pread(map, &entry, sizeof(entry), address / page_size * sizeof(entry)) != sizeof(entry))
		fail("pagemap");
	printf("page pid=%d address=%#llx offset=%#llx pagemap=%#llx bytes=", pid,
	       (unsigned long long)address, (unsigned long long)offset, (unsigned long long)entry);
	for (i = 0; got == (ssize_t)page_size && i < page_size; i++)
		printf("%02x", content[i]);
	putchar('\n');
	close(mem);
	close(map);
}

static void show(int pid, const char *offsets, int data_too)
{
	unsigned long long start, end, offset, inode, page;
	unsigned int major, minor;
	char perms[8], line[4096];
	FILE *maps = fdopen(open_of(pid, "maps"), "r");

	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%llx-%llx %7s %llx %x:%x %llu", &start, &end, perms, &offset, &major,
			   &minor, &inode) != 7)
			continue;
		if (inode != wanted_inode || makedev(major, minor) != wanted_device)
			continue;
		printf("map pid=%d start=%#llx end=%#llx offset=%#llx perms=%s\n", pid, start, end, offset, perms);
		for (page = start; (data_too || perms[2] == 'x') && page < end; page += page_size)
			if (wanted(offsets, page - start + offset))
				show_page(pid, page, page - start + offset);
	}
	fclose(maps);
}

int main(int argc, char **argv)
{
	struct stat status;
	char *offsets;
	int i;

	page_size = sysconf(_SC_PAGESIZE);
	if (argc < 2)
		return 2;
	if (sscanf(argv[1], "%llu:%llu", &wanted_device, &wanted_inode) != 2) {
		if (stat(argv[1], &status))
			fail(argv[1]);
		wanted_device = status.st_dev;
		wanted_inode = status.st_ino;
	}
	printf("file device=%llu inode=%llu page=%lu\n", wanted_device, wanted_inode, page_size);
	for (i = 2; i < argc; i++) {
		offsets = strpbrk(argv[i], ":=");
		show(atoi(argv[i]), offsets ? offsets + 1 : NULL, offsets && *offsets == '=');
	}
	return 0;
}
