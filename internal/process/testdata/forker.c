// A target that forks and spawns all the time. Each forked child calls answer()
// a thousand times and tells by its exit code whether all answers were the old
// one (0), the new one (1), or a mixture (2); a spawned one is /bin/true. With
// a line the parent tells its own answer and how many children were old, new
// or wrong. One child that was made first stays and answers lines with 'c'.
#define _GNU_SOURCE
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile long counter, olds, news, wrong, spawns;

__attribute__((noinline)) int answer(int x)
{
	__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return x + 1;
}

static void child(void)
{
	int old = 0, new = 0;
	for (int i = 0; i < 1000; i++) {
		int a = answer(1);
		old += a == 2;
		new += a == 1001;
	}
	_exit(old == 1000 ? 0 : new == 1000 ? 1 : 2);
}

static void *forks(void *arg)
{
	(void)arg;
	for (;;) {
		int status;
		pid_t pid = fork();
		if (pid == 0)
			child();
		if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) > 1)
			wrong++;
		else if (WEXITSTATUS(status))
			news++;
		else
			olds++;
		usleep(500);
	}
	return 0;
}

static void *spawner(void *arg)
{
	char *argv[] = { "true", 0 };
	(void)arg;
	for (;;) {
		pid_t pid;
		int status;
		if (posix_spawn(&pid, "/bin/true", 0, 0, argv, 0) || waitpid(pid, &status, 0) != pid || status)
			wrong++;
		spawns++;
		usleep(500);
	}
	return 0;
}

int main(void)
{
	char line[80];
	int to[2], from[2];
	pthread_t t;
	setvbuf(stdout, 0, _IOLBF, 0);
	if (pipe(to) || pipe(from))
		return 1;
	if (fork() == 0) {
		char c;
		close(to[1]);
		while (read(to[0], &c, 1) == 1) {
			int a = answer(1);
			if (write(from[1], &a, sizeof a) != sizeof a)
				break;
		}
		_exit(0);
	}
	if (pthread_create(&t, 0, forks, 0) || pthread_create(&t, 0, spawner, 0))
		return 1;
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		int a;
		if (line[0] == 'c') {
			if (write(to[1], "?", 1) != 1 || read(from[0], &a, sizeof a) != sizeof a)
				return 1;
			printf("%d 0 0\n", a);
			continue;
		}
		a = answer(1);
		printf("%d %ld %ld %ld %ld\n", a, olds, news, wrong, spawns);
	}
	return 0;
}
