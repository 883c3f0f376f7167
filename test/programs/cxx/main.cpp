#include <cstdio>
#include <exception>
int work(int n);
int other(int n);
int main()
{
	int n;
	while (std::scanf("%d", &n) == 1) {
		int a = work(n);
		try {
			int b = other(n);
			std::printf("%d %d\n", a, b);
		} catch (std::exception &e) {
			std::printf("%d %s\n", a, e.what());
		}
		std::fflush(stdout);
	}
}
