/* The least that it takes to start a command as tests/bench/sandbox does: one process, no limits, no filter. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRY(call) do { if ((call) < 0) err(1, #call); } while (0)

static void node(const char *from, const char *to)
{
    TRY(close(open(to, O_CREAT | O_WRONLY | O_CLOEXEC, 0644)));
    TRY(mount(from, to, NULL, MS_BIND, NULL));
}

static int inside(void *argv)
{
    static const char *const links[][2] = {{"usr/bin", "bin"}, {"usr/lib", "lib"}, {"usr/lib64", "lib64"}, {"usr/sbin", "sbin"}};
    static const char *const directories[] = {"usr", "proc", "dev", "tmp"};
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {0};

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
    node("/dev/null", "dev/null");
    node("/dev/zero", "dev/zero");
    node("/dev/full", "dev/full");
    node("/dev/random", "dev/random");
    node("/dev/urandom", "dev/urandom");
    node("/dev/tty", "dev/tty");
    TRY(mount("tmpfs", "tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"));
    TRY(syscall(SYS_pivot_root, ".", "."));
    TRY(umount2(".", MNT_DETACH));
    TRY(chdir("/"));
    TRY(sethostname("box", 3));
    for (int capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0; capability++) {}
    TRY(syscall(SYS_capset, &header, none));
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    execv(((char **)argv)[1], (char **)argv + 1);
    err(127, "execv");
}

int main(int argc, char **argv)
{
    static char stack[1 << 16];
    int status, flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | SIGCHLD;
    pid_t child;

    if (argc < 2) errx(2, "usage: sandbox COMMAND [ARG...]");
    TRY(child = clone(inside, stack + sizeof stack, flags, argv));
    TRY(waitpid(child, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
