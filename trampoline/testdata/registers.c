// Runs functions with every register given and tells every register afterwards.
// Reads lines from standard input and answers on standard output.
//
//	put ADDR HEX     copy bytes there; the pages are mapped when first used
//	data ADDR HEX    the same, on pages that stay writable
//	run ADDR SEED    make the other pages executable, call the function with random registers,
//	                 print the registers, the flags and a digest of the data
//
// Every address is hexadecimal. The stack pointer is the program's own.
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096ul

struct state {
	uint64_t regs[31]; // as the assembly below numbers them
	uint64_t flags;
	uint64_t vector[8]; // four registers
};

static struct page { uintptr_t addr; int data; } pages[256];
static int npages, executable;

void run(struct state *s, uintptr_t function);

#if defined(__x86_64__)
// rax rcx rdx rbx rbp rsi rdi r8 ... r15
enum { REGS = 15 };
#define FLAGS 0x8d5ul // carry, parity, adjust, zero, sign, overflow
__asm__(
	".local state, function, rdi\n"
	".comm state,8,8\n.comm function,8,8\n.comm rdi,8,8\n"
	".globl run\n"
	"run: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %r15\n"
	"mov %rdi, state(%rip); mov %rsi, function(%rip)\n"
	"movups 256(%rdi), %xmm0; movups 272(%rdi), %xmm1; movups 288(%rdi), %xmm2; movups 304(%rdi), %xmm3\n"
	"push 248(%rdi); popf\n"
	"mov 0(%rdi), %rax; mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; mov 24(%rdi), %rbx; mov 32(%rdi), %rbp; mov 40(%rdi), %rsi\n"
	"mov 56(%rdi), %r8; mov 64(%rdi), %r9; mov 72(%rdi), %r10; mov 80(%rdi), %r11; mov 88(%rdi), %r12; mov 96(%rdi), %r13\n"
	"mov 104(%rdi), %r14; mov 112(%rdi), %r15; mov 48(%rdi), %rdi\n"
	"call *function(%rip)\n"
	"mov %rdi, rdi(%rip); mov state(%rip), %rdi\n"
	"pushf; pop 248(%rdi)\n"
	"mov %rax, 0(%rdi); mov %rcx, 8(%rdi); mov %rdx, 16(%rdi); mov %rbx, 24(%rdi); mov %rbp, 32(%rdi); mov %rsi, 40(%rdi)\n"
	"mov rdi(%rip), %rax; mov %rax, 48(%rdi)\n"
	"mov %r8, 56(%rdi); mov %r9, 64(%rdi); mov %r10, 72(%rdi); mov %r11, 80(%rdi); mov %r12, 88(%rdi); mov %r13, 96(%rdi)\n"
	"mov %r14, 104(%rdi); mov %r15, 112(%rdi)\n"
	"movups %xmm0, 256(%rdi); movups %xmm1, 272(%rdi); movups %xmm2, 288(%rdi); movups %xmm3, 304(%rdi)\n"
	"cld; pop %r15; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n");
#elif defined(__aarch64__)
// x0 ... x30; x18 is the platform's, x30 is where the function returns to
enum { REGS = 30 };
#define FLAGS 0xf0000000ul
__asm__(
	".globl run\n"
	"run: stp x29, x30, [sp, #-96]!; stp x27, x28, [sp, #80]; stp x25, x26, [sp, #64]; stp x23, x24, [sp, #48]\n"
	"stp x21, x22, [sp, #32]; stp x19, x20, [sp, #16]; sub sp, sp, #16; stp x0, x1, [sp]\n"
	"ldp q0, q1, [x0, #256]; ldp q2, q3, [x0, #288]; ldr x1, [x0, #248]; msr nzcv, x1\n"
	"ldp x2, x3, [x0, #16]; ldp x4, x5, [x0, #32]; ldp x6, x7, [x0, #48]; ldp x8, x9, [x0, #64]; ldp x10, x11, [x0, #80]\n"
	"ldp x12, x13, [x0, #96]; ldp x14, x15, [x0, #112]; ldp x16, x17, [x0, #128]; ldr x19, [x0, #152]; ldp x20, x21, [x0, #160]\n"
	"ldp x22, x23, [x0, #176]; ldp x24, x25, [x0, #192]; ldp x26, x27, [x0, #208]; ldp x28, x29, [x0, #224]\n"
	"ldr x30, [sp, #8]; ldp x0, x1, [x0]; blr x30\n"
	"str x30, [sp, #8]; ldr x30, [sp]\n"
	"stp x0, x1, [x30]; stp x2, x3, [x30, #16]; stp x4, x5, [x30, #32]; stp x6, x7, [x30, #48]; stp x8, x9, [x30, #64]; stp x10, x11, [x30, #80]\n"
	"stp x12, x13, [x30, #96]; stp x14, x15, [x30, #112]; stp x16, x17, [x30, #128]; str x19, [x30, #152]; stp x20, x21, [x30, #160]\n"
	"stp x22, x23, [x30, #176]; stp x24, x25, [x30, #192]; stp x26, x27, [x30, #208]; stp x28, x29, [x30, #224]\n"
	"mrs x1, nzcv; str x1, [x30, #248]; stp q0, q1, [x30, #256]; stp q2, q3, [x30, #288]\n"
	"add sp, sp, #16; ldp x19, x20, [sp, #16]; ldp x21, x22, [sp, #32]; ldp x23, x24, [sp, #48]; ldp x25, x26, [sp, #64]\n"
	"ldp x27, x28, [sp, #80]; ldp x29, x30, [sp], #96; ret\n");
#endif

static void die(const char *what, uintptr_t addr)
{
	printf("%s %#lx: %s\n", what, (unsigned long)addr, strerror(errno));
	exit(1);
}

static void map(uintptr_t addr, int data)
{
	addr &= ~(PAGE - 1);
	for (int i = 0; i < npages; i++)
		if (pages[i].addr == addr)
			return;
	if (mmap((void *)addr, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | 0x100000, -1, 0) != (void *)addr)
		die("map", addr);
	pages[npages++] = (struct page){addr, data};
}

// executable pages are not writable: they change sides when it is asked for.
static void make(int exec)
{
	int prot = exec ? PROT_READ | PROT_EXEC : PROT_READ | PROT_WRITE;
	if (exec == executable)
		return;
	executable = exec;
	for (int i = 0; i < npages; i++) {
		if (pages[i].data)
			continue;
		if (mprotect((void *)pages[i].addr, PAGE, prot))
			die("protect", pages[i].addr);
		__builtin___clear_cache((char *)pages[i].addr, (char *)pages[i].addr + PAGE);
	}
}

static uint64_t digest(void)
{
	uint64_t h = 14695981039346656037u; // FNV-1a
	for (int i = 0; i < npages; i++)
		for (unsigned long k = 0; pages[i].data && k < PAGE; k++)
			h = (h ^ ((unsigned char *)pages[i].addr)[k]) * 1099511628211u;
	return h;
}

static uint64_t next(uint64_t *x) // xorshift64*
{
	*x ^= *x >> 12;
	*x ^= *x << 25;
	*x ^= *x >> 27;
	return *x * 2685821657736338717u;
}

static void tell(uintptr_t addr, uint64_t seed)
{
	struct state s;
	for (int i = 0; i < 31; i++) // small ones often, zero among them
		s.regs[i] = next(&seed) >> (next(&seed) & 63) & (next(&seed) & 7 ? -1 : 0);
	s.flags = next(&seed) & FLAGS;
	for (int i = 0; i < 8; i++)
		s.vector[i] = next(&seed);
	make(1);
	run(&s, addr);
	for (int i = 0; i < REGS; i++)
		printf("%lx ", i == 18 ? 0ul : (unsigned long)s.regs[i]);
	printf("flags %lx vectors", (unsigned long)(s.flags & FLAGS));
	for (int i = 0; i < 8; i++)
		printf(" %lx", (unsigned long)s.vector[i]);
	printf(" data %lx\n", (unsigned long)digest());
}

int main(void)
{
	static char line[20000], hex[20000];
	unsigned long addr, seed;

	while (fgets(line, sizeof line, stdin)) {
		int data = !strncmp(line, "data", 4);
		if (sscanf(line, "%*s %lx %lu", &addr, &seed) == 2 && !strncmp(line, "run", 3)) {
			tell(addr, seed);
		} else if (sscanf(line, "%*s %lx %19999s", &addr, hex) == 2) {
			if (!data)
				make(0);
			for (size_t i = 0; hex[2 * i] && hex[2 * i + 1]; i++) {
				char two[3] = {hex[2 * i], hex[2 * i + 1], 0};
				map(addr + i, data);
				((volatile unsigned char *)addr)[i] = strtoul(two, NULL, 16);
			}
		} else {
			errno = EINVAL;
			die(line, 0);
		}
	}
	return 0;
}
