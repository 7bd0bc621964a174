/* What the kernel lets whoever runs this call: each system call by its number, with arguments that it cannot use, in a
 * process of its own; the doors to the tables of other ABIs; ioctls and socket families. One answer a line. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum answer { THERE, REFUSED, ABSENT };
static const char *const answers[] = { "there", "refused", "absent" };

static enum answer answer_of(long result)
{
    if (result >= 0)
        return THERE;
    return errno == EPERM ? REFUSED : errno == ENOSYS ? ABSENT : THERE;
}

/* The answer of a process that makes a call. One that ends by it, or is still at it after a second, has been let. */
static const char *answer(long (*call)(long), long argument)
{
    fflush(stdout);
    pid_t child = fork();
    if (child < 0) {
        perror("probe: fork");
        exit(1);
    }
    if (child == 0) {
        pid_t self = getpid();
        setpgid(0, 0);
        alarm(1);
        enum answer found = answer_of(call(argument));
        /* fork and its kin have answered twice. */
        _exit(getpid() == self ? 100 + found : 0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    kill(-child, SIGKILL);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        return "killed";
    int code = WIFEXITED(status) ? WEXITSTATUS(status) - 100 : THERE;
    return answers[code == REFUSED || code == ABSENT ? code : THERE];
}

static long by_number(long number)
{
    long bad = -1;
    /* The kernel's own answer to an operation that it does not know is ENOSYS. */
    long operation = number == SYS_futex ? 0 : bad;
    return syscall(number, bad, operation, bad, bad, bad, bad);
}

/* getpid, as the i386 table has it. */
static long by_i386(long number)
{
    (void)number;
#ifdef __x86_64__
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory");
    errno = result < 0 ? -result : 0;
    return result;
#else
    errno = ENOSYS;
    return -1;
#endif
}

static long by_ioctl(long request)
{
    /* Not by ioctl(), whose library could look at the request. */
    return syscall(SYS_ioctl, -1, request, 0);
}

/* A type that no family has is refused before the kernel looks for the family, and so loads a module for it. */
static long by_family(long family)
{
    return socket((int)family, SOCK_STREAM | 0xe, 0);
}

int main(void)
{
    const struct rlimit none = { 0, 0 };
    setrlimit(RLIMIT_CORE, &none);
    signal(SIGTTOU, SIG_IGN);
    for (long number = 0; number <= 600; number++)
        printf("call %ld %s\n", number, answer(by_number, number));
    printf("i386 getpid %s\n", answer(by_i386, 0));
    printf("x32 getpid %s\n", answer(by_number, 0x40000000 | SYS_getpid));
    printf("ioctl TIOCSTI %s\n", answer(by_ioctl, TIOCSTI));
    printf("ioctl TIOCSTI|1<<32 %s\n", answer(by_ioctl, TIOCSTI | 1L << 32));
    printf("ioctl TIOCLINUX %s\n", answer(by_ioctl, TIOCLINUX));
    printf("ioctl TIOCLINUX|1<<32 %s\n", answer(by_ioctl, TIOCLINUX | 1L << 32));
    printf("ioctl TIOCGWINSZ %s\n", answer(by_ioctl, TIOCGWINSZ));
    for (long family = 0; family < AF_MAX; family++)
        printf("family %ld %s\n", family, answer(by_family, family));
    return 0;
}
