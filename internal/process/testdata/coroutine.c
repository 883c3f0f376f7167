// A target that rests in answer() on a stack that no thread stands on.
#include <stdio.h>
#include <ucontext.h>

static volatile long counter;
static ucontext_t outside, inside;
static char stack[64 << 10];

__attribute__((noinline)) int answer(int x)
{
	counter++;
	if (x < 0)
		swapcontext(&inside, &outside);
	return x + 1;
}

static void start(void) { answer(-1); }

int main(void)
{
	char line[80];
	setvbuf(stdout, 0, _IOLBF, 0);
	getcontext(&inside);
	inside.uc_stack.ss_sp = stack;
	inside.uc_stack.ss_size = sizeof stack;
	inside.uc_link = &outside;
	makecontext(&inside, start, 0);
	swapcontext(&outside, &inside);
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		if (line[0] == '!')
			swapcontext(&outside, &inside); // it returns and ends
		else
			printf("%d %ld 0\n", answer(1), counter);
	}
	return 0;
}
