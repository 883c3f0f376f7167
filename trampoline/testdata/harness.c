// Executes redirects: reads lines from standard input and answers on standard
// output.
//
//	map ADDR         map a page at this address
//	put ADDR HEX     copy bytes there
//	guard            from now on, indirect calls must land on a landing pad (arm64)
//	call ADDR A      make the pages executable, call the function with A, print its result
//
// Every address is hexadecimal.
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096ul
#define PROT_GUARDED 0x10 // PROT_BTI of arm64
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

static uintptr_t pages[64];
static int npages;

static void die(const char *what, uintptr_t addr)
{
	printf("%s %#lx: %s\n", what, (unsigned long)addr, strerror(errno));
	exit(1);
}

static void map(uintptr_t addr)
{
	void *want = (void *)(addr & ~(PAGE - 1));
	for (int i = 0; i < npages; i++)
		if (pages[i] == (uintptr_t)want)
			return;
	void *got = mmap(want, PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (got != want)
		die("map", addr);
	pages[npages++] = (uintptr_t)want;
}

static void protect(int prot)
{
	for (int i = 0; i < npages; i++) {
		if (mprotect((void *)pages[i], PAGE, prot))
			die("protect", pages[i]);
		__builtin___clear_cache((char *)pages[i], (char *)pages[i] + PAGE);
	}
}

int main(void)
{
	static char line[4096], hex[4096];
	unsigned long addr;
	int arg, guard = 0;

	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "map %lx", &addr) == 1) {
			map(addr);
		} else if (sscanf(line, "put %lx %4095s", &addr, hex) == 2) {
			for (size_t i = 0; hex[2 * i] && hex[2 * i + 1]; i++) {
				char two[3] = {hex[2 * i], hex[2 * i + 1], 0};
				((volatile unsigned char *)addr)[i] = strtoul(two, NULL, 16);
			}
		} else if (!strcmp(line, "guard\n")) {
			guard = PROT_GUARDED;
		} else if (sscanf(line, "call %lx %d", &addr, &arg) == 2) {
			protect(PROT_READ | PROT_EXEC | guard);
			printf("%d\n", ((int (*)(int))addr)(arg));
			fflush(stdout);
			protect(PROT_READ | PROT_WRITE);
		} else {
			errno = EINVAL;
			die(line, 0);
		}
	}
	return 0;
}
