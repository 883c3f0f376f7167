package types

// Each case is a source and edits (old text, new text) that make the changed
// one of it. A "!" in the report marks what breaks.
var cases = []struct {
	name, file, source string
	edits              []string
	want               string
}{
	{name: "moved", source: `
struct redisServer { long pid; char *name; int maxclients; };
int limit(struct redisServer *s, int n) { return n < s->maxclients; }`,
		edits: []string{"char *name;", "char *name; void *extra;"},
		want: `
! struct redisServer: field extra is new at offset 0x10 (layout)
! struct redisServer: field maxclients moved from offset 0x10 to 0x18 (layout)
! struct redisServer: its size was 0x18 and is 0x20 (layout)
`},
	{name: "layout", source: `
typedef unsigned int u32;
struct far { int a; long gone; };
struct hop { struct far *far; };
struct bits { unsigned a : 3; unsigned b : 5; unsigned c : 1; };
struct anon { int kind; union { long num; struct { short lo, hi; } half; void *ptr; }; };
union value { int i; long l; };
typedef struct { int x; } named;
struct table { int n; int slot[4]; };
struct types { int a; int b; struct far *c; char *d; int (*call)(int); };
struct unused { int before; };
struct self { struct self *next; int v; };
struct opaque;
static named there = {1};
struct use { struct hop *h; struct bits b; struct anon n; union value v; struct table t; struct types y; struct opaque *o; };
long work(struct use *u, struct self *s) {
	named local = there;
	return u->h->far->a + u->b.b + u->n.num + u->v.i + local.x + u->t.slot[1] + u->y.a + s->next->v;
}
long set(void) { return ++there.x; }
int quiet(struct unused *u) { return u->before; }`,
		edits: []string{
			"int a; long gone;", "int a;", "unsigned b : 5;", "unsigned b : 6;", "union { long num;", "int more; union { long num;",
			"int i; long l;", "int i; long l; char text[16];", "{ int x; }", "{ int y; int x; }", "slot[4]", "slot[8]",
			"int a; int b; struct far *c; char *d; int (*call)(int);", "unsigned a; long b; struct hop *c; void *d; int (*call)(int, int);",
		},
		want: `
! struct anon: field more is new at offset 0x4 (layout)
! struct bits: field b was 5 bits wide and is 6 bits wide (layout)
! struct bits: field c moved from offset 0x1 bit 0 to 0x1 bit 1 (layout)
! struct far: field gone at offset 0x8 is gone (layout)
! struct far: its size was 0x10 and is 0x4 (layout)
! struct named: field x moved from offset 0x0 to 0x4 (layout)
! struct named: field y is new at offset 0x0 (layout)
! struct named: its size was 0x4 and is 0x8 (layout)
! struct table: field slot was int [4] and is int [8] (layout)
! struct table: its size was 0x14 and is 0x24 (layout)
  struct types: field a was int and is unsigned int (layout)
! struct types: field b moved from offset 0x4 to 0x8 (layout)
! struct types: field b was int and is long (layout)
! struct types: field c moved from offset 0x8 to 0x10 (layout)
! struct types: field c was struct far * and is struct hop * (layout)
! struct types: field call moved from offset 0x18 to 0x20 (layout)
! struct types: field call was int (int) * and is int (int, int) * (layout)
! struct types: field d moved from offset 0x10 to 0x18 (layout)
  struct types: field d was char * and is void * (layout)
! struct types: its size was 0x20 and is 0x28 (layout)
! struct use: field o moved from offset 0x60 to 0x80 (layout)
! struct use: field t moved from offset 0x28 to 0x30 (layout)
! struct use: field y moved from offset 0x40 to 0x58 (layout)
! struct use: its size was 0x68 and is 0x88 (layout)
! union value: field text is new at offset 0x0 (layout)
! union value: its size was 0x8 and is 0x10 (layout)
`},
	{name: "enum", source: `
enum state { IDLE, RUNNING, DONE, NSTATES };
enum colour { RED = 1, GREEN = 2, BLUE = 4 };
struct job { enum state state; enum colour c; };
int work(struct job *j) { return j->state == DONE && j->c != BLUE; }`,
		edits: []string{"IDLE, RUNNING", "IDLE, STARTING, RUNNING", "GREEN = 2, BLUE = 4", "BLUE = 4"},
		want: `
  enum colour: GREEN = 2 is gone (enum)
! enum state: DONE was 2 and is 3 (enum)
  enum state: NSTATES was 3 and is 4 (enum)
! enum state: RUNNING was 1 and is 2 (enum)
  enum state: STARTING = 1 is new (enum)
`},
	{name: "prototype", source: `
struct s { int a; };
int less(int a, int b) { return a * b; }
int other(int a, struct s *b, char *c) { return a + b->a + *c; }
void result(int *p) { ++*p; }
int kept(const struct s *p, unsigned long n) { return p->a + n; }`,
		edits: []string{
			"less(int a, int b) { return a * b; }", "less(int a) { return a * a; }",
			"other(int a, struct s *b, char *c) { return a + b->a", "other(unsigned a, struct s b, char *c) { return a + b.a",
			"void result(int *p) { ++*p; }", "int result(int *p) { return ++*p; }",
			"const struct s *p, unsigned long n", "struct s *const p, unsigned long m", "p->a + n;", "p->a + m + 1;",
		},
		want: `
! less: it took 2 parameters and takes 1 parameter (prototype)
  other: parameter 1 was int and is unsigned int (prototype)
! other: parameter 2 was struct s * and is struct s (prototype)
! result: its result was void and is int (prototype)
`},
	{name: "class", file: "unit.cc", source: `
namespace db {
struct base { virtual ~base(); virtual int first() { return 1; } int shared; };
base::~base() {}
template <class T> struct list { T *head; int n; T *at(int i) { return head + i; } };
class client : public base {
	static int total;
	int id = 0;
public:
	enum class mode : char { OFF, ON };
	mode m = mode::OFF;
	list<long> replies = {};
	int work(const int &n);
	int first() override;
};
int client::first() { return id; }
int client::work(const int &n) { return id + n + (m == mode::ON) + (int)*replies.at(2) + shared; }
}
int use(db::client *c, int &&n) { return c->work(n) + c->first(); }`,
		edits: []string{
			"virtual int first()", "virtual int zero() { return 0; } virtual int first()", "int shared;", "int pad; int shared;",
			"{ T *head; int n;", "{ T *head; long n;", "enum class mode : char { OFF, ON }", "enum class mode : char { OFF, HALF, ON, MORE }",
		},
		want: `
! class client: field id moved from offset 0xc to 0x10 (layout)
! class client: field m moved from offset 0x10 to 0x14 (layout)
! class client: virtual function _ZN2db6client5firstEv moved from slot 2 to slot 3 (layout)
  enum mode: HALF = 1 is new (enum)
  enum mode: MORE = 3 is new (enum)
! enum mode: ON was 1 and is 2 (enum)
! struct base: field pad is new at offset 0x8 (layout)
! struct base: field shared moved from offset 0x8 to 0xc (layout)
! struct base: virtual function _ZN2db4base4zeroEv is new at slot 2 (layout)
! struct base: virtual function _ZN2db4base5firstEv moved from slot 2 to slot 3 (layout)
! struct list<long>: field n was int and is long (layout)
`},
}
