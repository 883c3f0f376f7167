#include "shape.h"
#include <stdexcept>
int other(int n)
{
	if (n < 0)
		throw std::runtime_error("negative");
	Box<int> box;
	box.items.push_back(n);
	return scale(box.total());
}
