// Runs the handler of breakpoints. Reads its bytes from standard input and does
// what argv[1] says:
//
//	hit     calls every site, in threads with and without a signal stack
//	chain   int3 elsewhere, with a function as the old action
//	sent    SIGTRAP from kill(), with the old action of the bytes
//	raised  int3 elsewhere, with the old action of the bytes
//
// argv[2] is the number of sites at SITES, 16 bytes apart, that lead to TARGETS,
// argv[3] and argv[4] are the offsets of the restorer and of the old action.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define SITES 0x100000000ul
#define TARGETS 0x200000000ul
#define SIZE (1ul << 20)

struct action { // of the kernel
	void *handler;
	unsigned long flags;
	void *restorer;
	unsigned long mask;
};

static int sites;
static volatile int chained;

static void *map(unsigned long at)
{
	void *p = mmap((void *)at, SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED_NOREPLACE : 0), -1, 0);
	if (p == MAP_FAILED || at && p != (void *)at) {
		perror("mmap");
		exit(1);
	}
	return p;
}

static void old(int sig, siginfo_t *info, void *arg)
{
	ucontext_t *uc = arg;
	sigset_t now;
	sigprocmask(SIG_BLOCK, 0, &now);
	if (sig == SIGTRAP && info->si_code == 0x80 && uc->uc_mcontext.gregs[REG_RAX] == 0x1234 &&
	    !sigismember(&now, SIGTRAP) && sigismember(&now, SIGUSR1) && !sigismember(&now, SIGUSR2))
		chained++;
}

static void *hit(void *on)
{
	if (on) {
		stack_t st = { .ss_sp = malloc(64 << 10), .ss_size = 64 << 10 };
		sigaltstack(&st, 0);
	}
	for (int i = 0; i < sites; i++) {
		// What a function may rely on survives, the red zone and the flags too.
		unsigned long result, red;
		__asm__ volatile("lea -256(%%rsp),%%rsp\n" // below the compiler's own red zone
				 "movq $0x77,-128(%%rsp)\n"
				 "stc\n"
				 "call *%2\n"
				 "jnc 1f\n"
				 "mov -128(%%rsp),%1\n"
				 "jmp 2f\n"
				 "1: xor %1,%1\n"
				 "2: lea 256(%%rsp),%%rsp\n"
				 : "=&a"(result), "=&b"(red) : "r"(SITES + 16ul * i) : "cc", "memory");
		if (result != (unsigned long)i || red != 0x77)
			return "a site led elsewhere, or did harm";
	}
	return 0;
}

int main(int argc, char **argv)
{
	(void)argc;
	unsigned char *code = map(0), *at = map(SITES), *to = map(TARGETS);
	sites = atoi(argv[2]);
	for (int i = 0; i < sites; i++) {
		memcpy(at + 16 * i, "\xcc\x0f\x0b", 3);     // int3; ud2
		memcpy(to + 16 * i, "\xb8\0\0\0\0\xc3", 6); // mov $i,%eax; ret
		memcpy(to + 16 * i + 1, &i, 4);
	}
	if (fread(code, 1, SIZE, stdin) == 0)
		return 1;
	if (!strcmp(argv[1], "chain"))
		*(void **)(code + strtoul(argv[4], 0, 16)) = old;
	struct action act = { code, SA_SIGINFO | SA_RESTART | SA_ONSTACK | 0x04000000, code + strtoul(argv[3], 0, 16), ~0ul };
	if (syscall(SYS_rt_sigaction, SIGTRAP, &act, 0, 8)) {
		perror("rt_sigaction");
		return 1;
	}
	if (!strcmp(argv[1], "hit")) {
		for (int i = 0; i < 8; i++) {
			pthread_t t;
			void *bad;
			pthread_create(&t, 0, hit, i % 2 ? "on" : 0);
			pthread_join(t, &bad);
			if (bad) {
				puts(bad);
				return 1;
			}
		}
	} else if (!strcmp(argv[1], "chain")) {
		for (int i = 0; i < 3; i++)
			__asm__ volatile("int3" : : "a"(0x1234) : "memory");
		printf("%d ", chained);
	} else if (!strcmp(argv[1], "sent")) {
		kill(getpid(), SIGTRAP);
	} else {
		__asm__ volatile("int3");
	}
	puts("alive");
	return 0;
}
