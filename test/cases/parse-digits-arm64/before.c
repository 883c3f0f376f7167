extern int out(const char *, ...);
static int log_level;
static void note(const char *what) { if (log_level > 1) out("note: %s\n", what); }
int parse(const char *s) { int n = 0; while (*s) { if (*s < '0') { note("no digit"); return -1; } n = n * 10 + *s++ - '0'; } return n; }
void quiet(void) { log_level = 0; }
