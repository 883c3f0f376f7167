// A replacement of answer() in server.c that calls what the target never did:
// a plain function of libc and two that choose their implementation when bound.
#include <string.h>
#include <unistd.h>

extern volatile long counter __attribute__((visibility("hidden")));

static pid_t (*volatile get)(void) = getppid;
static size_t (*volatile length)(const char *) = strlen;
static void *(*volatile move)(void *, const void *, size_t) = memcpy;

int answer_new(int x)
{
	char text[64];
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	move(text, "nine char", 10);
	return x + 991 + (int)length(text) * (get() > 0);
}
