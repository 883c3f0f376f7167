#include "shape.h"
#include <memory>
static int total = 3;
namespace {
struct Square : Shape {
	int side;
	explicit Square(int s) : side(s) {}
	int area() const override;
};
__attribute__((noinline)) int Square::area() const { return side * side; }
}
std::unique_ptr<Shape> make(int n) { return std::make_unique<Square>(n); }
int work(int n)
{
	Box<int> box;
	box.items = {n, 1, make(n)->area()};
	total += scale(box.total());
	return total;
}
