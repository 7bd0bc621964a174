//! The system calls of the profiles, as a filter in the format of the OCI runtime specification.

use caps::{Capability, CapsHashSet};
use nix::libc::{self, AF_ALG, AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, AF_VSOCK};
use sbx::seccomp::{Condition, Rule, Seccomp};
use std::collections::BTreeSet;

/// The system calls that are let through, whatever their arguments. One that is in neither list, such as clone3, whose flags a filter cannot
/// see, does not exist inside: ENOSYS, on which programs fall back to an older call.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown
    clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat
    dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork
    fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake
    futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups
    getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit
    getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_setup io_submit
    ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr
    link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv
    msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv
    preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev
    pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr
    rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity
    sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
    sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid
    setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt
    setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice
    stat statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create
    timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times
    tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork wait4 waitid write writev
";

/// The system calls that exist and are refused, whatever capabilities there are: EPERM. Keys, which no namespace holds;
/// interfaces whose bugs have let containers out (userfaultfd, io_uring); what only an old program asks for.
const REFUSED: &str = "
    add_key get_kernel_syms io_uring_enter io_uring_register io_uring_setup kexec_file_load kexec_load keyctl
    nfsservctl pivot_root request_key swapoff swapon sysfs uselib userfaultfd ustat vmsplice
";

/// The system calls that are let through with a capability, and refused without: EPERM. What the kernel would check itself
/// is refused all the same, since it is the code behind the check that has the bugs.
const GATED: [(Capability, &str); 14] = [
    (Capability::CAP_BPF, "bpf"),
    (Capability::CAP_DAC_READ_SEARCH, "open_by_handle_at"),
    (Capability::CAP_PERFMON, "perf_event_open"),
    (
        Capability::CAP_SYS_ADMIN,
        "bpf fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree
        perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount2 unshare",
    ),
    (Capability::CAP_SYS_BOOT, "reboot"),
    (Capability::CAP_SYS_CHROOT, "chroot"),
    (Capability::CAP_SYS_MODULE, "delete_module finit_module init_module"),
    (Capability::CAP_SYS_NICE, "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node"),
    (Capability::CAP_SYS_PACCT, "acct"),
    (Capability::CAP_SYS_PTRACE, "kcmp pidfd_getfd process_madvise"),
    (Capability::CAP_SYS_RAWIO, "ioperm iopl"),
    (Capability::CAP_SYS_TIME, "clock_settime settimeofday"),
    (Capability::CAP_SYS_TTY_CONFIG, "vhangup"),
    (Capability::CAP_SYSLOG, "syslog"),
];

/// What the strict profile refuses beside: to look into other processes, and to handle files by anything but their names.
const STRICT: &str = "
    fanotify_mark map_shadow_stack memfd_secret mknod mknodat name_to_handle_at process_mrelease process_vm_readv
    process_vm_writev ptrace remap_file_pages
";

/// The socket families of the strict profile beside netlink, of which it has the kernel's answers about links and routes.
const STRICT_FAMILIES: [i32; 3] = [AF_UNIX, AF_INET, AF_INET6];

/// The arguments of personality(2) that are let through: Linux, with the 32-bit and the UNAME26 view, and the question
/// which it is. Others switch off what protects memory.
const PERSONALITIES: [u32; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The flags of clone(2) that make namespaces, each refused.
const NAMESPACE_FLAGS: [u32; 7] =
    [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];

/// The calls that give a file its mode, and which argument that is. A set-user-ID or set-group-ID file that is the host's too
/// gives what the sandbox has to whoever executes it there: without CAP_FSETID these bits are refused.
const MODES: [(&str, u8); 9] = [
    ("chmod", 1),
    ("creat", 1),
    ("fchmod", 1),
    ("fchmodat", 2),
    ("fchmodat2", 2),
    ("mkdir", 1),
    ("mkdirat", 2),
    ("mknod", 1),
    ("mknodat", 2),
];

/// The calls that give one to a file which they make, by flags, and which arguments flags and mode are.
const OPENS: [(&str, u8, u8); 2] = [("open", 1, 2), ("openat", 2, 3)];

/// The flags by which a file is made: O_CREAT, and that of O_TMPFILE which is not O_DIRECTORY.
const MAKING_FLAGS: [u32; 2] = [libc::O_CREAT as u32, (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32];

/// The bits of a mode by which a program has other rights than its caller.
const SET_ID: [u32; 2] = [libc::S_ISUID, libc::S_ISGID];

/// ioctls that type into the caller's terminal: TIOCSTI, TIOCLINUX (CVE-2017-5226). The kernel takes the low 32 bits
/// only, and so does the comparison (CVE-2019-10063).
const TERMINAL_IOCTLS: [u32; 2] = [0x5412, 0x541c];

/// Socket families that no network namespace contains.
const REFUSED_FAMILIES: [u32; 2] = [AF_ALG as u32, AF_VSOCK as u32];

/// Socket families, and protocols of netlink, are numbers of so many bits (AF_MAX, MAX_LINKS): larger ones do not exist.
const FAMILY_BITS: u32 = 6;
const PROTOCOL_BITS: u32 = 5;

const NETLINK: u32 = AF_NETLINK as u32;
const NETLINK_AUDIT: u32 = libc::NETLINK_AUDIT as u32;

/// The filter for who has these capabilities. No two of its rules answer one call differently, so that all who read it
/// agree on what it says (docs/decisions/0005-one-filter.md).
pub fn filter(capabilities: &CapsHashSet, is_strict: bool) -> Seccomp {
    let names = |text: &'static str| text.split_ascii_whitespace();
    let allow = |call: &'static str| Rule::allow([call]);
    let refuse = |call: &'static str| Rule::fail([call], libc::EPERM as u32);
    let has = Condition::masked;
    let is = |index: u8, value: u32| has(index, u32::MAX, value);
    let mut allowed: BTreeSet<&str> = names(ALLOWED).collect();
    let mut refused: BTreeSet<&str> = names(REFUSED).collect();
    for (_, calls) in GATED.iter().filter(|(capability, _)| capabilities.contains(capability)) {
        allowed.extend(names(calls));
    }
    if is_strict {
        let without: BTreeSet<&str> = names(STRICT).collect();
        allowed.retain(|call| !without.contains(call));
        refused.extend(names(STRICT));
    }
    refused.extend(GATED.iter().flat_map(|(_, calls)| names(calls)).filter(|call| !allowed.contains(call)));
    let mut modes = Vec::new();
    if !capabilities.contains(&Capability::CAP_FSETID) {
        let all = |flags: &[u32]| flags.iter().sum::<u32>();
        for (call, mode) in MODES.into_iter().filter(|(call, _)| allowed.remove(call)) {
            modes.push(allow(call).only_if(&[has(mode, all(&SET_ID), 0)]));
            modes.extend(SET_ID.map(|bit| refuse(call).only_if(&[has(mode, bit, bit)])));
        }
        for (call, flags, mode) in OPENS.into_iter().filter(|(call, ..)| allowed.remove(call)) {
            modes.push(allow(call).only_if(&[has(flags, all(&MAKING_FLAGS), 0)]));
            for flag in MAKING_FLAGS {
                let makes = || has(flags, flag, flag);
                modes.push(allow(call).only_if(&[makes(), has(mode, all(&SET_ID), 0)]));
                modes.extend(SET_ID.map(|bit| refuse(call).only_if(&[makes(), has(mode, bit, bit)])));
            }
        }
        // Its arguments are where no filter can look.
        allowed.remove("openat2");
    }
    let mut rules = vec![Rule::allow(allowed), Rule::fail(refused, libc::EPERM as u32)];
    rules.extend(modes);
    rules.extend(PERSONALITIES.map(|persona| allow("personality").only_if(&[is(0, persona)])));
    if capabilities.contains(&Capability::CAP_SYS_ADMIN) {
        rules.push(allow("clone"));
    } else {
        rules.push(allow("clone").only_if(&[has(0, NAMESPACE_FLAGS.iter().sum(), 0)]));
        rules.extend(NAMESPACE_FLAGS.map(|flag| refuse("clone").only_if(&[has(0, flag, flag)])));
    }
    let others = all_but(&TERMINAL_IOCTLS, u32::BITS);
    rules.extend(others.map(|(mask, other)| allow("ioctl").only_if(&[has(1, mask, other)])));
    rules.extend(TERMINAL_IOCTLS.map(|request| refuse("ioctl").only_if(&[is(1, request)])));

    if is_strict {
        rules.extend(STRICT_FAMILIES.map(|family| allow("socket").only_if(&[is(0, family as u32)])));
        rules.push(allow("socket").only_if(&[is(0, NETLINK), is(2, libc::NETLINK_ROUTE as u32)]));
    } else {
        let [alg, vsock] = REFUSED_FAMILIES;
        let families = all_but(&[alg, vsock, NETLINK], FAMILY_BITS);
        rules.extend(families.map(|(mask, family)| allow("socket").only_if(&[has(0, mask, family)])));
        let protocols = all_but(&[NETLINK_AUDIT], PROTOCOL_BITS);
        rules.extend(
            protocols.map(|(mask, protocol)| allow("socket").only_if(&[is(0, NETLINK), has(2, mask, protocol)])),
        );
    }
    rules.extend(REFUSED_FAMILIES.map(|family| refuse("socket").only_if(&[is(0, family)])));
    let audit = [is(0, NETLINK), is(2, NETLINK_AUDIT)];
    rules.push(if capabilities.contains(&Capability::CAP_AUDIT_WRITE) {
        allow("socket").only_if(&audit)
    } else {
        // No audit from inside. PAM takes it well that there is none, but not that it is refused.
        Rule::fail(["socket"], libc::EAFNOSUPPORT as u32).only_if(&audit)
    });
    Seccomp::of(rules)
}

/// Masks and values of which one, and no other, is what an argument of so many bits has under that mask which is none of these
/// values: it has the upper bits of one of them down to a bit that is not as in any.
fn all_but(values: &[u32], bits: u32) -> impl Iterator<Item = (u32, u32)> + use<> {
    let branches = (0..bits).flat_map(|bit| values.iter().map(move |value| (u32::MAX << bit, value ^ (1 << bit))));
    let others = branches.map(|(mask, value)| (mask, value & mask));
    let apart = others.filter(|(mask, other)| values.iter().all(|value| value & mask != *other));
    apart.collect::<BTreeSet<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use syscalls::{aarch64, x86_64};

    /// The names of calls that are let through, and of those that are refused, whatever their arguments.
    fn of(capabilities: &[Capability], is_strict: bool) -> [BTreeSet<String>; 2] {
        let filter = filter(&capabilities.iter().copied().collect(), is_strict);
        let filter = serde_json::to_value(filter).expect("a filter");
        let rules = filter["syscalls"].as_array().expect("rules");
        ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"].map(|action| {
            let plain = rules.iter().filter(|rule| rule["action"] == action && rule.get("args").is_none());
            let names = plain.flat_map(|rule| rule["names"].as_array().expect("names"));
            names.map(|name| name.as_str().expect("a name").to_owned()).collect()
        })
    }

    #[test]
    fn no_call_is_in_both_lists_and_none_of_the_dangerous_is_let_through() {
        for is_strict in [false, true] {
            let [allowed, refused] = of(&[], is_strict);
            assert_eq!(allowed.intersection(&refused).count(), 0);
            for name in ["mount", "unshare", "setns", "bpf", "open_by_handle_at", "keyctl", "io_uring_setup", "fsopen"]
            {
                assert!(refused.contains(name) && !allowed.contains(name), "{name}");
            }
            assert!(!allowed.contains("clone3") && !refused.contains("clone3"));
        }
    }

    #[test]
    fn a_capability_lets_its_calls_through_and_no_others() {
        let [plain, _] = of(&[], false);
        for (capability, calls) in GATED {
            let [allowed, refused] = of(&[capability], false);
            let more: Vec<&String> = allowed.difference(&plain).filter(|call| *call != "clone").collect();
            let mut expected: Vec<&str> = calls.split_ascii_whitespace().collect();
            expected.sort_unstable();
            assert_eq!(more, expected, "{capability}");
            assert_eq!(allowed.intersection(&refused).count(), 0);
        }
    }

    #[test]
    fn what_is_strict_lets_less_through() {
        let ([all, _], [strict, _]) = (of(&[], false), of(&[], true));
        assert!(strict.is_subset(&all) && strict.len() < all.len());
    }

    #[test]
    fn without_its_capability_nobody_gives_a_file_an_id_of_its_own() {
        let ([all, _], [some, refused]) = (of(&[Capability::CAP_FSETID], false), of(&[], false));
        let without: BTreeSet<&str> = all.difference(&some).map(String::as_str).collect();
        let modes = MODES.iter().map(|(call, _)| *call).chain(OPENS.iter().map(|(call, ..)| *call));
        assert_eq!(without, modes.chain(["openat2"]).collect());
        assert!(refused.is_disjoint(&all));
    }

    #[test]
    fn all_but_some_values_are_covered_once() {
        let excluded = [38, 40, 16];
        for bits in [6, 32] {
            let others: Vec<_> = all_but(&excluded, bits).collect();
            let near = (0..0x1_0000).chain((0..32).flat_map(|bit| excluded.map(|value| value ^ (1 << bit))));
            for value in near.chain([u32::MAX]) {
                let holding = others.iter().filter(|(mask, other)| value & mask == *other).count();
                let expected = !excluded.contains(&value) && u64::from(value) < 1 << bits;
                assert_eq!(holding, usize::from(expected), "{value}");
            }
        }
    }

    #[test]
    fn one_list_is_for_the_tables_of_all_architectures() {
        let gated = GATED.iter().map(|(_, calls)| *calls);
        for name in [ALLOWED, REFUSED, STRICT].into_iter().chain(gated).flat_map(str::split_ascii_whitespace) {
            assert!(name.parse::<x86_64::Sysno>().is_ok(), "{name}");
        }
        // What aarch64 has beside is the 32-bit tables', and one call by another name.
        for call in aarch64::Sysno::iter().map(|call| call.name()) {
            assert!(call.parse::<x86_64::Sysno>().is_ok() || call.ends_with("time64") || call == "fstatat", "{call}");
        }
        assert!(sbx::seccomp::number("newfstatat").is_some());
    }
}
