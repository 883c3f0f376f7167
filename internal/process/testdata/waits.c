// A target whose threads wait in one kind of system call each and count how
// often it returns EINTR without a signal handler having run.

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static volatile long counter;

__attribute__((noinline)) int answer(int x)
{
	counter++;
	return x + 1;
}

static int in[2], pair[2], timed[2], listener, ep, sems;
static sem_t never;
static sigset_t set;

static int do_epoll(void) { struct epoll_event e; return epoll_wait(ep, &e, 1, -1); }
static int do_epoll_limit(void) { struct epoll_event e; return epoll_wait(ep, &e, 1, 1000000); }
static int do_semop(void) { struct sembuf b = { 0, -1, 0 }; return semop(sems, &b, 1); }
static int do_sigtimedwait(void) { struct timespec t = { 1000, 0 }; return sigtimedwait(&set, 0, &t); }
static int do_recv_timeout(void) { char c; return recv(timed[0], &c, 1, 0); }
static int do_recv(void) { char c; return recv(pair[0], &c, 1, 0); }
static int do_read(void) { char c; return read(in[0], &c, 1); }
static int do_poll(void) { struct pollfd p = { in[0], POLLIN, 0 }; return poll(&p, 1, -1); }
static int do_poll_limit(void) { struct pollfd p = { in[0], POLLIN, 0 }; return poll(&p, 1, 1000000); }
static int do_ppoll(void) { struct pollfd p = { in[0], POLLIN, 0 }; return ppoll(&p, 1, 0, 0); }
static int do_select(void) { fd_set s; FD_ZERO(&s); FD_SET(in[0], &s); return select(in[0] + 1, &s, 0, 0, 0); }
static int do_accept(void) { return accept(listener, 0, 0); }
static int do_sem_wait(void) { return sem_wait(&never); }
static int do_sem_timedwait(void) { struct timespec t; clock_gettime(CLOCK_REALTIME, &t); t.tv_sec += 1000; return sem_timedwait(&never, &t); }
static int do_nanosleep(void) { struct timespec t = { 1000, 0 }; return nanosleep(&t, 0); }
static int do_clock_nanosleep(void) { struct timespec t = { 1000, 0 }; errno = clock_nanosleep(CLOCK_MONOTONIC, 0, &t, 0); return errno ? -1 : 0; }
static int do_pause(void) { return pause(); }
static int do_sigwait(void) { return sigwaitinfo(&set, 0); }
static int do_msgrcv(void) { static int q = -1; struct { long t; char c[8]; } m; if (q < 0) q = msgget(IPC_PRIVATE, 0600); return msgrcv(q, &m, 8, 0, 0); }

static struct { const char *name; int (*call)(void); volatile long eintr; volatile long other; } all[] = {
	{ "epoll_wait", do_epoll, 0, 0 }, { "epoll_wait-timeout", do_epoll_limit, 0, 0 }, { "semop", do_semop, 0, 0 },
	{ "msgrcv", do_msgrcv, 0, 0 },
	{ "sigtimedwait", do_sigtimedwait, 0, 0 }, { "sigwaitinfo", do_sigwait, 0, 0 },
	{ "recv-SO_RCVTIMEO", do_recv_timeout, 0, 0 }, { "recv", do_recv, 0, 0 }, { "read", do_read, 0, 0 },
	{ "poll", do_poll, 0, 0 }, { "poll-timeout", do_poll_limit, 0, 0 }, { "ppoll", do_ppoll, 0, 0 }, { "select", do_select, 0, 0 },
	{ "accept", do_accept, 0, 0 }, { "sem_wait", do_sem_wait, 0, 0 }, { "sem_timedwait", do_sem_timedwait, 0, 0 },
	{ "nanosleep", do_nanosleep, 0, 0 }, { "clock_nanosleep", do_clock_nanosleep, 0, 0 }, { "pause", do_pause, 0, 0 },
};
enum { N = sizeof all / sizeof all[0] };

static void *waiter(void *arg)
{
	long i = (long)arg;
	for (;;) {
		errno = 0;
		int r = all[i].call();
		if (r < 0 && errno == EINTR)
			all[i].eintr++;
		else
			all[i].other++;
	}
	return 0;
}

int main(void)
{
	char line[80];
	struct timeval tv = { 1000, 0 };
	struct sockaddr_un un = { AF_UNIX, "" };
	setvbuf(stdout, 0, _IOLBF, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, 0);
	if (pipe(in) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || socketpair(AF_UNIX, SOCK_STREAM, 0, timed))
		return 1;
	setsockopt(timed[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&un, sizeof(sa_family_t)) || listen(listener, 1))
		return 1;
	ep = epoll_create1(0);
	sems = semget(IPC_PRIVATE, 1, 0600);
	sem_init(&never, 0, 0);
	for (long i = 0; i < N; i++) {
		pthread_t t;
		pthread_create(&t, 0, waiter, (void *)i);
	}
	usleep(200000);
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		if (line[0] == '?')
			printf("%d %ld 0\n", answer(1), counter);
		for (int i = 0; i < N; i++)
			printf("%s%s=%ld/%ld", i ? " " : "", all[i].name, all[i].eintr, all[i].other);
		printf("\n");
	}
	semctl(sems, 0, IPC_RMID);
	return 0;
}
