// busy_linger is on a stack for as long as the program runs.

static volatile unsigned long turns;

void busy_linger(void (*wait)(void))
{
	for (;;) {
		wait();
#ifdef FIXED
		turns += 2;
#else
		turns++;
#endif
	}
}

unsigned long busy_turns(void)
{
	return turns;
}
