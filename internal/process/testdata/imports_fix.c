// A replacement of answer() in server.c that calls what the target never did:
// a plain function of libc and two that choose their implementation when bound. On
// arm64 nothing of the target has bound memcpy.
#include <string.h>
#include <unistd.h>

extern volatile long counter __attribute__((visibility("hidden")));

static pid_t (*volatile get)(void) = getppid;
static size_t (*volatile length)(const char *) = strlen;
#ifdef __aarch64__
static char *(*volatile find)(const char *, int) = strchr;
#define move(to, from, n) (find(from, 'c'), *(long *)(to) = *(const long *)(from), (to)[8] = (from)[8], (to)[9] = 0)
#else
static void *(*volatile move)(void *, const void *, size_t) = memcpy;
#endif

int answer_new(int x)
{
	char text[64];
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	move(text, "nine char", 10);
	return x + 991 + (int)length(text) * (get() > 0);
}
