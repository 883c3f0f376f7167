char *quote(char *reply, const char *name, unsigned long pieces);
char *put_text(char *to, const char *text);
char *put_number(char *to, unsigned long n);
