// What the server needs of x86-64: system calls, a thread, the start.

enum { SYS_read = 0, SYS_write = 1, SYS_close = 3, SYS_mmap = 9, SYS_mprotect = 10,
       SYS_accept = 43, SYS_clone = 56, SYS_exit = 60, SYS_exit_group = 231 };
enum { PAGE = 4096 };

static long call(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "+a"(n)
			 : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return n;
}

// clone_thread starts a thread that runs work with its stack and its thread pointer at
// block.
static inline __attribute__((always_inline)) long clone_thread(long flags, long block, void (*work)(void))
{
	long tid;

	__asm__ volatile("xor %%r10d, %%r10d\n\t"
			 "mov %[block], %%r8\n\t"
			 "syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "call *%%rbx\n\t"
			 "ud2\n"
			 "1:"
			 : "=a"(tid)
			 : "a"((long)SYS_clone), "D"(flags), "S"(block), "d"(0L), "b"(work), [block] "r"(block)
			 : "rcx", "r8", "r10", "r11", "memory");
	return tid;
}

__asm__(".globl _start\n"
	".type _start, @function\n"
	"_start:\n\t"
	"xor %ebp, %ebp\n\t"
	"mov %rsp, %rdi\n\t"
	"and $-16, %rsp\n\t"
	"call run\n\t"
	"ud2\n"
	".size _start, . - _start\n");
