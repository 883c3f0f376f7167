// The replacement of answer() in early.c and earlylib.c.
int answer_new(int x) { return x + 1000; }
