// A target whose only thread keeps known values in all its registers and looks
// at them all the time. On SIGUSR1 it tells the answer, how often it has looked
// and how often something was not what it was; SIGUSR2 stays blocked, the
// signal stack and the floating point mode must stay what they are.
#define _GNU_SOURCE
#include <fenv.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

static volatile long counter;
static volatile long wrong;
static char other[64 << 10];

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

static void tell(int sig, siginfo_t *info, void *arg)
{
	char line[80];
	ucontext_t *uc = arg;
	(void)sig, (void)info;
	if (!sigismember(&uc->uc_sigmask, SIGUSR2) || sigismember(&uc->uc_sigmask, SIGUSR1))
		wrong += 1000000;
	if (uc->uc_stack.ss_sp != other || uc->uc_stack.ss_size != sizeof other || uc->uc_stack.ss_flags)
		wrong += 10000000;
	int n = snprintf(line, sizeof line, "%d %ld %ld\n", answer(1), counter, wrong);
	if (write(1, line, n) != n)
		_exit(1);
}

// look fills the registers, passes the time, and returns 0 if all still hold
// what they did. It lives in the red zone, too.
long look(void);
__asm__(
	".text\n.globl look\n.type look,@function\nlook:\n"
	"push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
	"mov $0x1111111111111111,%rax\nmov $0x2222222222222222,%rbx\n"
	"mov $0x3333333333333333,%rdx\nmov $0x4444444444444444,%rsi\n"
	"mov $0x5555555555555555,%rdi\nmov $0x6666666666666666,%rbp\n"
	"mov $0x7777777777777777,%r8\nmov $0x8888888888888888,%r9\n"
	"mov $0x9999999999999999,%r10\nmov $0xaaaaaaaaaaaaaaaa,%r11\n"
	"mov $0xbbbbbbbbbbbbbbbb,%r12\nmov $0xcccccccccccccccc,%r13\n"
	"mov $0xdddddddddddddddd,%r14\nmov $0xeeeeeeeeeeeeeeee,%r15\n"
	"mov %rax,-8(%rsp)\nmov %rbx,-128(%rsp)\n"
	"movq %r8,%xmm0\npunpcklqdq %xmm0,%xmm0\nmovq %r9,%xmm7\nmovq %r10,%xmm15\n"
	"fldpi\n"
	"mov $20000,%ecx\nstc\n"
	"1: lea -1(%rcx),%ecx\njrcxz 2f\njmp 1b\n"
	"2: jnc 9f\n" // the flags, too
	"mov $0x1111111111111111,%rcx\ncmp %rcx,%rax\njne 9f\ncmp %rcx,-8(%rsp)\njne 9f\n"
	"mov $0x2222222222222222,%rcx\ncmp %rcx,%rbx\njne 9f\ncmp %rcx,-128(%rsp)\njne 9f\n"
	"mov $0x3333333333333333,%rcx\ncmp %rcx,%rdx\njne 9f\n"
	"mov $0x4444444444444444,%rcx\ncmp %rcx,%rsi\njne 9f\n"
	"mov $0x5555555555555555,%rcx\ncmp %rcx,%rdi\njne 9f\n"
	"mov $0x6666666666666666,%rcx\ncmp %rcx,%rbp\njne 9f\n"
	"mov $0x7777777777777777,%rcx\ncmp %rcx,%r8\njne 9f\n"
	"mov $0x8888888888888888,%rcx\ncmp %rcx,%r9\njne 9f\n"
	"mov $0x9999999999999999,%rcx\ncmp %rcx,%r10\njne 9f\n"
	"mov $0xaaaaaaaaaaaaaaaa,%rcx\ncmp %rcx,%r11\njne 9f\n"
	"mov $0xbbbbbbbbbbbbbbbb,%rcx\ncmp %rcx,%r12\njne 9f\n"
	"mov $0xcccccccccccccccc,%rcx\ncmp %rcx,%r13\njne 9f\n"
	"mov $0xdddddddddddddddd,%rcx\ncmp %rcx,%r14\njne 9f\n"
	"mov $0xeeeeeeeeeeeeeeee,%rcx\ncmp %rcx,%r15\njne 9f\n"
	"movq %xmm0,%rcx\ncmp %rcx,%r8\njne 9f\npsrldq $8,%xmm0\nmovq %xmm0,%rcx\ncmp %rcx,%r8\njne 9f\n"
	"movq %xmm7,%rcx\ncmp %rcx,%r9\njne 9f\nmovq %xmm15,%rcx\ncmp %rcx,%r10\njne 9f\n"
	"fldpi\nfucomip %st(1),%st\njp 9f\njne 9f\n"
	"xor %eax,%eax\njmp 8f\n"
	"9: mov $1,%eax\n"
	"8: fstp %st(0)\n"
	"pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n"
	".size look,.-look\n.previous\n");

int main(void)
{
	struct sigaction sa = { .sa_sigaction = tell, .sa_flags = SA_SIGINFO };
	stack_t st = { .ss_sp = other, .ss_size = sizeof other };
	sigset_t set;
	sigaction(SIGUSR1, &sa, 0);
	sigaltstack(&st, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, 0);
	fesetround(FE_UPWARD);
	if (write(1, "ready\n", 6) != 6)
		return 1;
	for (;;) {
		wrong += look();
		if (fegetround() != FE_UPWARD)
			wrong += 1000;
	}
}
