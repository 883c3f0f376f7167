// A C++ target for unwinding: exceptions are thrown in a function that is
// replaced (decide), go through one (pass), and are caught in one (handle). With
// FIXED all of them say so in what they throw and return; pass then calls a
// function that was not there before.
#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

// A function that callers know nothing of.
#ifdef __clang__
#define APART __attribute__((noinline, optnone))
#else
#define APART __attribute__((noipa))
#endif

#ifdef FIXED
enum { side = 1000 };
#else
enum { side = 0 };
#endif

struct problem {
	int code;
};

struct other {
	long code;
};

static std::atomic<long> destroyed __asm__("destroyed");

struct guard {
	~guard() { destroyed++; }
};

extern "C" APART int callee(int x)
{
	if (x % 2)
		throw problem{x};
	return x;
}

#ifdef FIXED
static APART int added(int x)
{
	guard g;
	if (x % 3 == 0)
		throw other{x + 5000};
	return callee(x) + 1;
}
#endif

// Throws.
extern "C" APART int decide(int x)
{
	guard g;
	if (x % 2 == 0)
		throw std::runtime_error(std::to_string(x + side));
	return callee(x - 1) + side;
}

// Exceptions go through it.
extern "C" APART int pass(int x)
{
	guard g;
#ifdef FIXED
	return added(x) + side;
#else
	return callee(x) + side;
#endif
}

// Catches.
extern "C" APART int handle(int x)
{
	try {
		return callee(x) + side;
	} catch (const problem &p) {
		return -p.code - side;
	}
}

static int expect_decide(int x, int s) { return x % 2 == 0 ? 100000 + x + s : x - 1 + s; }

static int expect_pass(int x, int s)
{
	if (s && x % 3 == 0)
		return 300000 + x + 5000;
	return x % 2 ? 200000 + x : x + s + (s ? 1 : 0);
}

static int call(int (*f)(int), int x)
{
	try {
		return f(x);
	} catch (const std::runtime_error &e) {
		return 100000 + std::stoi(e.what());
	} catch (const problem &p) {
		return 200000 + p.code;
	} catch (const other &o) {
		return 300000 + (int)o.code;
	}
}

static std::atomic<long> calls, wrong;

static void check(int x)
{
	int a = call(decide, x), b = call(pass, x), c = call(handle, x);
	if (a != expect_decide(x, 0) && a != expect_decide(x, 1000))
		wrong++;
	if (b != expect_pass(x, 0) && b != expect_pass(x, 1000))
		wrong++;
	int old = x % 2 ? -x : x;
	if (c != old && c != (old < 0 ? old - 1000 : old + 1000))
		wrong++;
	calls++;
}

// Leaves nothing on the stack that looks like a call of what is replaced.
static __attribute__((noinline)) void scrub()
{
	volatile char stack[8192];
	for (char volatile &c : stack)
		c = 0;
}

static void work(int seed)
{
	for (int x = seed;; x++) {
		check(x % 1000);
		scrub();
		usleep(200);
	}
}

// Stays away for a minute.
extern "C" APART int stay(int x)
{
	for (int i = 0; i < 600; i++)
		usleep(x);
	return x + side;
}

int main(int argc, char **argv)
{
	char line[80];
	setvbuf(stdout, nullptr, _IOLBF, 0);
	for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 0); i++)
		std::thread(work, i).detach();
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		if (line[0] == 's')
			calls += stay(100000);
		printf("%d %ld %ld\n", call(decide, 2), calls.load(), wrong.load());
		scrub();
	}
	_exit(0);
}
