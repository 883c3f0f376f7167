#pragma once
#include <vector>
// A function and a template that two objects have a copy of: the linker keeps one, with one count.
inline __attribute__((noinline)) int scale(int x)
{
	static int calls;
	return x + ++calls;
}
template <class T> struct Box {
	std::vector<T> items;
	__attribute__((noinline)) T total() const
	{
		T sum{};
		for (auto &i : items)
			sum += i;
		return sum;
	}
};
struct Shape {
	virtual ~Shape() = default;
	virtual int area() const = 0;
};
int work(int n);
int other(int n);
