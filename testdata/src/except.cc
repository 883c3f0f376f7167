// C++: exceptions, a virtual call, a template. FIXED changes the function that no
// exception crosses, FIXED_CATCH the one that catches.

namespace {
unsigned long thrown;

struct shape {
	virtual long area() const = 0;
	virtual ~shape() {}
};

struct square : shape {
	long side;
	explicit square(long s) : side(s) {}
	long area() const override { return side * side; }
};

template <typename T> __attribute__((noinline)) T twice(T x) { return x + x; }
} // namespace

// No exception crosses this one.
extern "C" long except_plain(long x) noexcept
{
	static unsigned long calls;

	calls++;
#ifdef FIXED
	return twice(x) + 1000 + calls;
#else
	return twice(x) + calls;
#endif
}

extern "C" long except_throw(long x)
{
	if (x < 0) {
		thrown++;
		throw x;
	}
	return x;
}

// This one catches and has a landing pad.
extern "C" long except_catch(long x)
{
	try {
		square s(except_throw(x));
		const shape &sh = s;
#ifdef FIXED_CATCH
		return sh.area() + 1;
#else
		return sh.area();
#endif
	} catch (long v) {
		return v;
	}
}

extern "C" unsigned long except_count() { return thrown; }
