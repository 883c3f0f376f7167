#pragma once
struct module { int state; char name[56]; };
struct klp_object { const char *name; void *funcs; void *callbacks[4]; struct module *mod; };
