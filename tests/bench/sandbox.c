/* The least that a sandbox with limits takes: tests/bench/sandbox measures virt-sandbox beside this one process.
 * Usage: sandbox CGROUP/FILE=LIMIT... -- COMMAND [ARG...] */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRY(call) do { if ((call) < 0) err(1, #call); } while (0)
#define INTO_CGROUP 0x200000000 /* CLONE_INTO_CGROUP of linux/sched.h, as is what follows: musl has no such header */

struct clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

static void put(const char *file, int flags, const char *text)
{
    int fd;

    TRY(fd = open(file, O_WRONLY | O_CLOEXEC | flags, 0644));
    TRY(write(fd, text, strlen(text)));
    TRY(close(fd));
}

/* Makes the cgroup with its limit, and enters its directory. */
static void limit(char *cgroup)
{
    char *value = strchr(cgroup, '='), *file;

    if (!value) errx(2, "no limit: %s", cgroup);
    *value++ = 0;
    file = strrchr(cgroup, '/');
    *file++ = 0;
    if (mkdir(cgroup, 0755) < 0 && errno != EEXIST) err(1, "%s", cgroup);
    TRY(chdir(cgroup));
    put(file, 0, value);
}

static void inside(char **command)
{
    static const char *const links[][2] = {{"usr/bin", "bin"}, {"usr/lib", "lib"}, {"usr/lib64", "lib64"}, {"usr/sbin", "sbin"}};
    static const char *const directories[] = {"usr", "proc", "dev", "tmp"};
    static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"};
    uint32_t header[2] = {0x20080522, 0}, none[6] = {0}; /* of capset(2), version 3 */
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd;

    TRY(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    TRY(mount("tmpfs", "/tmp", "tmpfs", MS_NODEV, "mode=755"));
    TRY(chdir("/tmp"));
    for (int i = 0; i < 4; i++) {
        TRY(mkdir(directories[i], 0755));
        TRY(symlink(links[i][0], links[i][1]));
    }
    TRY(mount("/usr", "usr", NULL, MS_BIND | MS_REC, NULL));
    TRY(mount(NULL, "usr", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NODEV, NULL));
    TRY(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
    TRY(mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755"));
    for (int i = 0; i < 6; i++) {
        put(devices[i] + 1, O_CREAT, "");
        TRY(mount(devices[i], devices[i] + 1, NULL, MS_BIND, NULL));
    }
    TRY(mount("tmpfs", "tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"));
    TRY(syscall(SYS_pivot_root, ".", "."));
    TRY(umount2(".", MNT_DETACH));
    TRY(chdir("/"));
    TRY(mount(NULL, "/", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NODEV, NULL));
    TRY(sethostname("box", 3));
    TRY(fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    TRY(ioctl(fd, SIOCSIFFLAGS, &loopback));
    for (int capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0; capability++) {}
    TRY(syscall(SYS_capset, header, none));
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    execv(command[0], command);
    err(127, "%s", command[0]);
}

int main(int argc, char **argv)
{
    struct clone_args args = {CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET, .exit_signal = SIGCHLD};
    int status, last = 1, is_v2 = 0, fd;
    pid_t child;

    for (; last < argc && strcmp(argv[last], "--"); last++) {
        limit(argv[last]);
        is_v2 = access("tasks", F_OK) < 0;
    }
    if (last + 1 >= argc) errx(2, "usage: sandbox CGROUP/FILE=LIMIT... -- COMMAND [ARG...]");
    if (is_v2) {
        args.flags |= INTO_CGROUP;
        TRY(fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        args.cgroup = fd;
    }
    TRY(child = syscall(SYS_clone3, &args, sizeof args));
    if (child == 0) {
        /* The one thread of a process is not waited for, as those of one are that is written to cgroup.procs. */
        for (int i = 1; !is_v2 && i < last; i++) {
            TRY(chdir(argv[i]));
            put("tasks", 0, "0");
        }
        inside(argv + last + 1);
    }
    TRY(waitpid(child, &status, 0));
    for (int i = 1; i < last; i++)
        if (rmdir(argv[i]) < 0 && errno != ENOENT) err(1, "%s", argv[i]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
