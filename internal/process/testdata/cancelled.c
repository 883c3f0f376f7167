// A target whose threads are cancelled in a function that is replaced. Each line
// starts a thread, waits until it is in there, cancels it and answers: what the
// function said of itself, how often its caller's cleanup has run, and what went
// wrong.
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#ifdef FIXED
enum { side = 1000 };
#else
enum { side = 0 };
#endif

static volatile int in, cleaned, wrong;

static void clean(void *p)
{
	(void)p;
	cleaned++;
}

__attribute__((noipa)) int waits(int x)
{
	in = x + side;
	for (;;)
		pause();
	return x;
}

__attribute__((noipa)) static void *run(void *p)
{
	int r;
	pthread_cleanup_push(clean, p);
	r = waits(1);
	wrong += r;
	pthread_cleanup_pop(0);
	return 0;
}

int main(void)
{
	char line[80];
	setvbuf(stdout, 0, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		pthread_t t;
		void *result;
		in = 0;
		wrong += pthread_create(&t, 0, run, 0) != 0;
		while (!in)
			usleep(1000);
		pthread_cancel(t);
		pthread_join(t, &result);
		wrong += result != PTHREAD_CANCELED;
		printf("%d %d %d\n", in, cleaned, wrong);
	}
	return 0;
}
