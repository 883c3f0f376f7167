// A target that opens the library of its argument.
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	void *lib = dlopen(argv[1], RTLD_NOW);
	int (*answer)(int) = lib ? dlsym(lib, "answer") : 0;
	printf("opened %d\n", answer ? answer(1) : -1);
	return 0;
}
