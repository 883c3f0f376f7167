// A C++ target: answer() is called behind a virtual function, exceptions fly
// elsewhere, none through it.
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

static volatile long counter __asm__("counter");

extern "C" __attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

struct shape {
	virtual ~shape() {}
	virtual int value(int x) { return x; }
};

struct round_shape : shape {
	int value(int x) override { return answer(x); }
};

static volatile long wrong;

static void work(shape *s)
{
	for (;;) {
		int r = s->value(1);
		try {
			if (r != 2)
				throw std::runtime_error(std::to_string(r));
		} catch (const std::exception &e) {
			if (std::string(e.what()) != "1001")
				__atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
		}
		std::this_thread::sleep_for(std::chrono::microseconds(100));
	}
}

int main()
{
	char line[80];
	setvbuf(stdout, nullptr, _IOLBF, 0);
	static round_shape s;
	std::vector<std::thread> all;
	for (int i = 0; i < 4; i++)
		all.emplace_back(work, &s);
	puts("ready");
	while (fgets(line, sizeof line, stdin))
		printf("%d %ld %ld\n", s.value(1), counter, wrong);
	_Exit(0);
}
