// A target whose threads wait in one kind of system call each and count how
// often it returns EINTR without a signal handler having run.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile long counter;

__attribute__((noinline)) int answer(int x)
{
	counter++;
	return x + 1;
}

static int in[2], pair[2], timed[2], full[2], part[2], sending[2], sending_timed[2], listener, slow, ep, sems, queue, notes, locked[2], events, timer, signals;
static pid_t sleeping;
static mqd_t posix;
static aio_context_t aio;
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
static int do_msgrcv(void) { struct { long t; char c[8]; } m; return msgrcv(queue, &m, 8, 2, 0); }

static int do_epoll_pwait(void) { struct epoll_event e; return epoll_pwait(ep, &e, 1, -1, &set); }
static int do_semtimedop(void) { struct sembuf b = { 0, -1, 0 }; struct timespec t = { 1000, 0 }; return semtimedop(sems, &b, 1, &t); }
static int do_inotify(void) { char b[512]; return read(notes, b, sizeof b); }
static int do_io_getevents(void) { struct io_event e; return syscall(SYS_io_getevents, aio, 1, 1, &e, 0); }
static int do_msgsnd(void) { static struct { long t; char c[8000]; } m = { 1, "" }; return msgsnd(queue, &m, sizeof m.c, 0); }
static int do_mq_receive(void) { char b[64]; return mq_receive(posix, b, sizeof b, 0); }
static int do_mq_timedreceive(void) { char b[64]; struct timespec t; clock_gettime(CLOCK_REALTIME, &t); t.tv_sec += 1000; return mq_timedreceive(posix, b, sizeof b, 0, &t); }
static int do_futex(void) { static int word; return syscall(SYS_futex, &word, FUTEX_WAIT, 0, 0, 0, 0); }
static int do_futex_limit(void) { static int word; struct timespec t = { 1000, 0 }; return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &t, 0, 0); }
static int do_pselect(void) { fd_set s; FD_ZERO(&s); FD_SET(in[0], &s); return pselect(in[0] + 1, &s, 0, 0, 0, &set); }
static int do_select_limit(void) { fd_set s; struct timeval t = { 1000, 0 }; FD_ZERO(&s); FD_SET(in[0], &s); return select(in[0] + 1, &s, 0, 0, &t); }
static int do_ppoll_limit(void) { struct pollfd p = { in[0], POLLIN, 0 }; struct timespec t = { 1000, 0 }; return ppoll(&p, 1, &t, 0); }
static int do_absolute(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); t.tv_sec += 1000; errno = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0); return errno ? -1 : 0; }
static int do_write(void) { return write(full[1], "x", 1); }
static int do_write_part(void) // begins with an empty pipe
{
	static char b[1 << 20];
	while (read(part[0], b, sizeof b) > 0)
		;
	int n = write(part[1], b, sizeof b);
	errno = n < (int)sizeof b ? EINTR : 0;
	return n < (int)sizeof b ? -1 : n;
}
static int do_send(void) { return send(sending[1], "x", 1, 0); }
static int do_send_timeout(void) { return send(sending_timed[1], "x", 1, 0); }
static int do_accept_timeout(void) { return accept(slow, 0, 0); }
static int do_recvmsg(void) { char c; struct iovec v = { &c, 1 }; struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 }; return recvmsg(pair[0], &m, 0); }
static int do_recvmmsg(void) { char c; struct iovec v = { &c, 1 }; struct mmsghdr m = { .msg_hdr = { .msg_iov = &v, .msg_iovlen = 1 } }; return recvmmsg(pair[0], &m, 1, 0, 0); }
static int do_waitid(void) { siginfo_t i; return waitid(P_PID, sleeping, &i, WEXITED | WNOWAIT); }
static int do_wait4(void) { return waitpid(sleeping, 0, 0); }
static int do_flock(void) { return flock(locked[1], LOCK_EX); }
static int do_setlkw(void) { struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET }; return fcntl(locked[1], F_OFD_SETLKW, &l); }
static int do_eventfd(void) { uint64_t v; return read(events, &v, 8); }
static int do_timerfd(void) { uint64_t v; return read(timer, &v, 8); }
static int do_signalfd(void) { struct signalfd_siginfo i; return read(signals, &i, sizeof i); }

static struct { const char *name; int (*call)(void); volatile long eintr; volatile long other; } all[] = {
	{ "epoll_wait", do_epoll, 0, 0 }, { "epoll_wait-timeout", do_epoll_limit, 0, 0 }, { "semop", do_semop, 0, 0 },
	{ "msgrcv", do_msgrcv, 0, 0 },
	{ "sigtimedwait", do_sigtimedwait, 0, 0 }, { "sigwaitinfo", do_sigwait, 0, 0 },
	{ "recv-SO_RCVTIMEO", do_recv_timeout, 0, 0 }, { "recv", do_recv, 0, 0 }, { "read", do_read, 0, 0 },
	{ "poll", do_poll, 0, 0 }, { "poll-timeout", do_poll_limit, 0, 0 }, { "ppoll", do_ppoll, 0, 0 }, { "select", do_select, 0, 0 },
	{ "accept", do_accept, 0, 0 }, { "sem_wait", do_sem_wait, 0, 0 }, { "sem_timedwait", do_sem_timedwait, 0, 0 },
	{ "epoll_pwait", do_epoll_pwait, 0, 0 }, { "semtimedop", do_semtimedop, 0, 0 }, { "read-inotify", do_inotify, 0, 0 },
	{ "io_getevents", do_io_getevents, 0, 0 }, { "msgsnd", do_msgsnd, 0, 0 }, { "mq_receive", do_mq_receive, 0, 0 },
	{ "mq_timedreceive", do_mq_timedreceive, 0, 0 }, { "futex", do_futex, 0, 0 }, { "futex-timeout", do_futex_limit, 0, 0 },
	{ "pselect", do_pselect, 0, 0 }, { "select-timeout", do_select_limit, 0, 0 }, { "ppoll-timeout", do_ppoll_limit, 0, 0 },
	{ "clock_nanosleep-TIMER_ABSTIME", do_absolute, 0, 0 }, { "write", do_write, 0, 0 }, { "write-part", do_write_part, 0, 0 }, { "send", do_send, 0, 0 },
	{ "send-SO_SNDTIMEO", do_send_timeout, 0, 0 }, { "accept-SO_RCVTIMEO", do_accept_timeout, 0, 0 }, { "recvmsg", do_recvmsg, 0, 0 },
	{ "recvmmsg", do_recvmmsg, 0, 0 }, { "waitid", do_waitid, 0, 0 }, { "wait4", do_wait4, 0, 0 }, { "flock", do_flock, 0, 0 },
	{ "fcntl-F_OFD_SETLKW", do_setlkw, 0, 0 }, { "read-eventfd", do_eventfd, 0, 0 }, { "read-timerfd", do_timerfd, 0, 0 },
	{ "read-signalfd", do_signalfd, 0, 0 },
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

// fill writes until nothing more goes in.
static void fill(int fd)
{
	static char b[4096];
	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (write(fd, b, sizeof b) > 0 || write(fd, b, 1) > 0)
		;
	fcntl(fd, F_SETFL, 0);
}

// more makes what the further calls wait for.
static int more(struct timeval *tv)
{
	char name[] = "/tmp/livepatch-waits-XXXXXX", mq[40];
	struct mq_attr small = { .mq_maxmsg = 1, .mq_msgsize = 64 };
	struct sockaddr_un un = { AF_UNIX, "" };
	struct itimerspec late = { .it_value = { 1000, 0 } };
	struct { long t; char c[8000]; } m = { 1, "" };
	if (pipe(full) || pipe(part) || socketpair(AF_UNIX, SOCK_STREAM, 0, sending) || socketpair(AF_UNIX, SOCK_STREAM, 0, sending_timed))
		return 0;
	fill(full[1]);
	fill(sending[1]);
	fill(sending_timed[1]);
	fcntl(part[0], F_SETFL, O_NONBLOCK);
	setsockopt(sending_timed[1], SOL_SOCKET, SO_SNDTIMEO, tv, sizeof *tv);
	slow = socket(AF_UNIX, SOCK_STREAM, 0);
	setsockopt(slow, SOL_SOCKET, SO_RCVTIMEO, tv, sizeof *tv);
	queue = msgget(IPC_PRIVATE, 0600);
	while (msgsnd(queue, &m, sizeof m.c, IPC_NOWAIT) == 0)
		;
	snprintf(mq, sizeof mq, "/livepatch-waits-%d", getpid());
	posix = mq_open(mq, O_CREAT | O_RDWR, 0600, &small);
	mq_unlink(mq);
	locked[0] = mkstemp(name);
	locked[1] = open(name, O_RDWR);
	unlink(name);
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	notes = inotify_init();
	events = eventfd(0, 0);
	timer = timerfd_create(CLOCK_MONOTONIC, 0);
	signals = signalfd(-1, &set, 0);
	if ((sleeping = fork()) == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return bind(slow, (struct sockaddr *)&un, sizeof(sa_family_t)) == 0 && listen(slow, 1) == 0 && posix >= 0 && flock(locked[0], LOCK_EX) == 0 && fcntl(locked[0], F_OFD_SETLK, &l) == 0 && notes >= 0 && events >= 0 &&
		timerfd_settime(timer, 0, &late, 0) == 0 && signals >= 0 && sleeping > 0 && syscall(SYS_io_setup, 1, &aio) == 0;
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
	if (!more(&tv))
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
	msgctl(queue, IPC_RMID, 0);
	kill(sleeping, SIGKILL);
	return 0;
}
