// A program that answers one line per line, for tests that patch it while it
// runs: prog [THREADS [linger]]. Each of THREADS threads calls counter_ticks and
// sleeps, over and over; with linger the first one stays in busy_linger.

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

unsigned long counter_tick(unsigned int), counter_tock(unsigned int), counter_ticks(void);
const char *counter_mood(unsigned long);
int switch_jump(int, int, int), switch_value(unsigned int);
const char *switch_name(int);
long switch_goto(const unsigned char *, long);
long calls_leaf(long), calls_sum(const long *, int), calls_weight(long);
long (*calls_pointer(void))(long);
int calls_same(long (*)(long));
long tls_enter(long);
long ifunc_use(long);
void busy_linger(void (*)(void));
unsigned long busy_turns(void);

long calls_outside(long x) { return x ^ 1; }

// A millisecond, longer in programs of many threads: they are to be there, not
// to keep the machine busy.
static long nap = 1000000;

static void pause_a_little(void)
{
	struct timespec t = {0, nap};

	nanosleep(&t, 0);
}

static void *work(void *arg)
{
	if (arg)
		busy_linger(pause_a_little);
	for (;;) {
		counter_ticks();
		pause_a_little();
	}
	return 0;
}

// From here on this thread may do nothing but read, write and end.
static int be_strict(void)
{
#define ALLOW(name) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1), \
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(read), ALLOW(write), ALLOW(exit_group), ALLOW(rt_sigreturn), ALLOW(restart_syscall),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog filter = {sizeof code / sizeof *code, code};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}

// nanoseconds that n calls of switch_value take
static long time_calls(long n)
{
	struct timespec a, b;
	long sum = 0;

	clock_gettime(CLOCK_MONOTONIC, &a);
	for (long i = 0; i < n; i++)
		sum += switch_value(i & 7);
	clock_gettime(CLOCK_MONOTONIC, &b);
	return (b.tv_sec - a.tv_sec) * 1000000000 + (b.tv_nsec - a.tv_nsec) + (sum == 0);
}

static void answer(const char *verb, long a, long b)
{
	const long v[] = {a, b, a + b};
	const unsigned char code[] = {1, 2, 3, 1, 0};

	if (!strcmp(verb, "tick"))
		printf("%lu\n", counter_tick(a));
	else if (!strcmp(verb, "tock"))
		printf("%lu\n", counter_tock(a));
	else if (!strcmp(verb, "ticks"))
		printf("%lu\n", counter_ticks());
	else if (!strcmp(verb, "mood"))
		printf("%s\n", counter_mood(a));
	else if (!strcmp(verb, "jump"))
		printf("%d %d %d\n", switch_jump(3, a, b), switch_jump(8, a, b), switch_jump(9, a, b));
	else if (!strcmp(verb, "name"))
		printf("%s\n", switch_name(a));
	else if (!strcmp(verb, "value"))
		printf("%d\n", switch_value(a));
	else if (!strcmp(verb, "goto"))
		printf("%ld\n", switch_goto(code, a));
	else if (!strcmp(verb, "sum"))
		printf("%ld\n", calls_sum(v, 3));
	else if (!strcmp(verb, "same"))
		printf("%d %d\n", calls_same(calls_leaf), calls_pointer() == calls_leaf);
	else if (!strcmp(verb, "weight"))
		printf("%ld\n", calls_weight(a));
	else if (!strcmp(verb, "tls"))
		printf("%ld\n", tls_enter(a));
	else if (!strcmp(verb, "ifunc"))
		printf("%ld\n", ifunc_use(a));
	else if (!strcmp(verb, "time"))
		printf("%ld\n", time_calls(a));
	else if (!strcmp(verb, "strict"))
		printf("%d\n", be_strict());
	else if (!strcmp(verb, "turns"))
		printf("%lu\n", busy_turns());
	else
		printf("?\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 0;
	char line[200], verb[20];

	nap *= 1 + threads / 8;
	// Any process of this user may trace this one, whatever Yama thinks of it.
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
	for (int i = 0; i < threads; i++) {
		pthread_attr_t attr;
		pthread_t t;

		pthread_attr_init(&attr);
		pthread_attr_setstacksize(&attr, 64 << 10);
		if (pthread_create(&t, &attr, work, argc > 2 && i == 0 ? argv : 0))
			return 1;
	}
	while (fgets(line, sizeof line, stdin)) {
		long a = 0, b = 0;

		if (sscanf(line, "%19s %ld %ld", verb, &a, &b) >= 1)
			answer(verb, a, b);
	}
	return 0;
}
