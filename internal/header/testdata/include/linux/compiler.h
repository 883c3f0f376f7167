#pragma once
/* As much of the kernel as the headers need. */
#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define __maybe_unused __attribute__((__unused__))
#define notrace __attribute__((__no_instrument_function__))
#define noinline __attribute__((__noinline__))
#define ENODEV 19
