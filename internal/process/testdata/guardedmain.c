// A target for arm64 whose calls land on landing pads and whose return addresses
// are signed. For each line of input it calls a leaf and a function with a frame,
// each directly and through a pointer, and tells what they gave; for one that
// begins with w it waits inside the latter for another line.
#include <stdio.h>

int leaf(int x);
int framed(int x, int wait);
extern int calls;

// The C library's own start has no landing pad everywhere.
__asm__(".text\n.globl _start\n.type _start,%function\n_start:\n"
	"hint #38\nmov x29,xzr\nmov x30,xzr\nmov x5,x0\nldr x1,[sp]\nadd x2,sp,#8\nmov x6,sp\n"
	"adrp x0,main\nadd x0,x0,:lo12:main\nmov x3,xzr\nmov x4,xzr\nbl __libc_start_main\nbrk #1\n"
	".size _start,.-_start\n.previous\n");

static char line[80];
static int (*volatile through)(int) = leaf;
static int (*volatile framed_through)(int, int) = framed;

int main(void)
{
	setvbuf(stdout, 0, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		int wait = line[0] == 'w';
		int a = leaf(1), b = through(1), c = framed(1, wait), d = framed_through(1, 0);
		printf("%d %d %d\n", a + c, calls, a != b || c != d);
	}
}
