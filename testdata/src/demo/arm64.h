// What the server needs of arm64: system calls, a thread, the start.

enum { SYS_read = 63, SYS_write = 64, SYS_close = 57, SYS_mmap = 222, SYS_mprotect = 226,
       SYS_accept = 202, SYS_clone = 220, SYS_exit = 93, SYS_exit_group = 94 };
enum { PAGE = 65536 }; // the largest that kernels have

static long call(long n, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
}

// clone_thread starts a thread that runs work with its stack and its thread pointer at
// block.
static inline long clone_thread(long flags, long block, void (*work)(void))
{
	register long x8 __asm__("x8") = SYS_clone;
	register long x0 __asm__("x0") = flags;
	register long x1 __asm__("x1") = block;
	register long x2 __asm__("x2") = 0;
	register long x3 __asm__("x3") = block;
	register long x4 __asm__("x4") = 0;

	__asm__ volatile("svc #0\n\t"
			 "cbnz x0, 1f\n\t"
			 "mov x29, xzr\n\t"
			 "blr %[work]\n\t"
			 "brk #1\n"
			 "1:"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), [work] "r"(work)
			 : "x30", "memory");
	return x0;
}

__asm__(".globl _start\n"
	".type _start, %function\n"
	"_start:\n\t"
	"mov x29, xzr\n\t"
	"mov x30, xzr\n\t"
	"mov x0, sp\n\t"
	"bl run\n\t"
	"brk #1\n"
	".size _start, . - _start\n");
