// Static state of every kind that a replacement must share with the running
// code: file statics, two static locals of one name, an array, a pointer to a
// string. With FIXED the functions change; the state does not.

struct tally {
	unsigned long calls;
	unsigned long odd;
};

static unsigned long ticks;
static struct tally tallies[4] = {{1, 0}, {2, 0}, {3, 0}, {4, 0}};
static const char *mood = "calm";

unsigned long counter_total; // global, for contrast

static __attribute__((noinline)) unsigned long bump(struct tally *t, unsigned long by)
{
	static unsigned long seen;

	seen++;
	t->calls += by;
	if (t->calls & 1)
		t->odd++;
	return seen;
}

unsigned long counter_tick(unsigned int slot)
{
	static unsigned long n = 100;

	n++;
	ticks++;
	counter_total += n;
#ifdef FIXED
	return bump(&tallies[slot & 3], 2) + n * 10;
#else
	return bump(&tallies[slot & 3], 2) + n;
#endif
}

unsigned long counter_tock(unsigned int slot)
{
	static unsigned long n = 200; // not the n above

	n += 2;
	ticks++;
#ifdef FIXED
	if (slot > 3)
		return 0;
	return tallies[slot].odd + ticks + n;
#else
	return tallies[slot & 3].odd + ticks * n;
#endif
}

const char *counter_mood(unsigned long limit)
{
	if (ticks > limit)
#ifdef FIXED
		mood = "hectic";
#else
		mood = "busy";
#endif
	return mood;
}

unsigned long counter_ticks(void)
{
	return ticks;
}
