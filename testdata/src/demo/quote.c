// The shop of the demo: answers "ITEM PIECES" with "#SERIAL DISCOUNTS CENTS".
// Ten pieces and more cost a tenth less. Without FIXED the discount loses
// cents to rounding, and an unknown item is free.

#include "quote.h"

struct item {
	char name[8];
	unsigned int cents;
};

static const struct item stock[] = {
	{"apple", 35}, {"bread", 249}, {"cheese", 895}, {"dates", 412},
};

static unsigned long serial; // replies so far

static int same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static const struct item *find(const char *name)
{
	for (unsigned int i = 0; i < sizeof stock / sizeof *stock; i++)
		if (same(stock[i].name, name))
			return &stock[i];
	return 0;
}

// price returns what the pieces cost and counts the discounts given.
static __attribute__((noipa)) unsigned long
price(const struct item *it, unsigned long pieces, unsigned long *given)
{
	static unsigned long discounts;
	unsigned long cents = it->cents * pieces;

	*given = __atomic_add_fetch(&discounts, pieces >= 10, __ATOMIC_SEQ_CST);
	if (pieces < 10)
		return cents;
#ifdef FIXED
	return (cents * 90 + 50) / 100;
#else
	return cents / 100 * 90;
#endif
}

char *quote(char *reply, const char *name, unsigned long pieces)
{
	unsigned long n = __atomic_add_fetch(&serial, 1, __ATOMIC_SEQ_CST);
	unsigned long given = 0, cents = 0;
	const struct item *it = find(name);

#ifdef FIXED
	if (!it)
		return put_text(put_number(put_text(reply, "#"), n), " no such item\n");
	cents = price(it, pieces, &given);
#else
	if (it)
		cents = price(it, pieces, &given);
#endif
	reply = put_number(put_text(reply, "#"), n);
	reply = put_number(put_text(reply, " "), given);
	reply = put_number(put_text(reply, " "), cents);
	return put_text(reply, "\n");
}
