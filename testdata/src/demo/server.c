// The server of the demo: argv[1] threads accept connections on the listening
// socket that it inherits as descriptor 3 and answer one line per line. It ends when its
// standard input does. Freestanding Linux, so that the program is a few
// kilobytes and runs on every distribution.

#include "quote.h"

#ifdef __aarch64__
#include "arm64.h"
#else
#include "x86.h"
#endif

enum { LISTENER = 3, STACK = 16 * PAGE };

char *put_text(char *to, const char *text)
{
	while (*text)
		*to++ = *text++;
	return to;
}

char *put_number(char *to, unsigned long n)
{
	char digits[20];
	int i = 0;

	do
		digits[i++] = '0' + n % 10;
	while (n /= 10);
	while (i)
		*to++ = digits[--i];
	return to;
}

static void write_all(int fd, const char *p, const char *end)
{
	while (p < end) {
		long n = call(SYS_write, fd, (long)p, end - p, 0, 0, 0);

		if (n <= 0 && n != -4 /* EINTR */)
			return;
		if (n > 0)
			p += n;
	}
}

// respond answers the request line, which ends where its newline was.
static __attribute__((noinline)) void respond(int fd, char *line)
{
	char reply[256], *p = line;
	unsigned long pieces = 0;

	while (*p && *p != ' ')
		p++;
	if (*p)
		*p++ = 0;
	while (*p >= '0' && *p <= '9')
		pieces = pieces * 10 + (*p++ - '0');
	write_all(fd, reply, quote(reply, line, pieces));
}

static void serve(int fd)
{
	char line[128];
	unsigned long n = 0;

	for (;;) {
		long got = call(SYS_read, fd, (long)(line + n), 1, 0, 0, 0);

		if (got == -4 /* EINTR */)
			continue;
		if (got <= 0)
			break;
		if (line[n] != '\n') {
			if (++n == sizeof line)
				break;
			continue;
		}
		line[n] = 0;
		respond(fd, line);
		n = 0;
	}
	call(SYS_close, fd, 0, 0, 0, 0, 0);
}

static void work(void)
{
	for (;;) {
		long fd = call(SYS_accept, LISTENER, 0, 0, 0, 0, 0);

		if (fd >= 0)
			serve(fd);
	}
}

// start runs work in a new thread with a stack and a guard page of its own. As
// everywhere, the thread pointer points to a control block at the end of the stack.
static void start(void)
{
	// VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS
	const long flags = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | 0x80000;
	long stack = call(SYS_mmap, 0, STACK, 3 /* RW */, 0x22 /* PRIVATE ANONYMOUS */, -1, 0);
	long tid, block = stack + STACK - 64;

	if (stack < 0 && stack > -PAGE)
		call(SYS_exit_group, 1, 0, 0, 0, 0, 0);
	call(SYS_mprotect, stack, PAGE, 0, 0, 0, 0);
	*(long *)block = block;
	tid = clone_thread(flags, block, work);
	if (tid < 0)
		call(SYS_exit_group, 1, 0, 0, 0, 0, 0);
}

__attribute__((used)) static void run(long *sp)
{
	char **argv = (char **)(sp + 1), c;
	int threads = 4;

	if (sp[0] > 1)
		threads = argv[1][0] - '0';
	for (int i = 0; i < threads; i++)
		start();
	while (call(SYS_read, 0, (long)&c, 1, 0, 0, 0) > 0)
		;
	call(SYS_exit_group, 0, 0, 0, 0, 0, 0);
}
