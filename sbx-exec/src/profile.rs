//! The default confinement.

use anyhow::Result;
use sbx::Document;
use serde_json::{Value, json};

/// The capabilities that a container keeps: enough for systemd as process 1 and for what services do to their own
/// files, users and low ports. What reaches the kernel's or another's things is not among them.
const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The limits, soft and hard, that are set rather than inherited from whoever starts the container. A core dump would
/// go where the host's core_pattern says. Limits that may need raising are left alone: that takes CAP_SYS_RESOURCE,
/// which not every root has, and an init inside makes do with what it inherits.
const RLIMITS: [(&str, u64, u64); 1] = [("RLIMIT_CORE", 0, 0)];

/// The system calls that are let through. One that is in neither list, such as clone3, whose flags a filter cannot
/// see, does not exist inside: ENOSYS, on which programs fall back to an older call.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chroot
    clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat
    dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork
    fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake
    futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups
    getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit
    getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit ioctl
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
    setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socket socketpair splice
    stat statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create
    timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times
    tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid write writev
";

/// The system calls that exist and are refused: EPERM. Mounts and namespaces; the kernel's modules, clock, keys and
/// memory; interfaces whose bugs have let containers out (userfaultfd, io_uring, bpf, perf).
const REFUSED: &str = "
    acct add_key bpf clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick
    get_kernel_syms get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp
    kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages
    nfsservctl open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise quotactl
    quotactl_fd reboot request_key set_mempolicy set_mempolicy_home_node setdomainname sethostname setns
    settimeofday swapoff swapon sysfs syslog umount2 unshare uselib userfaultfd ustat vhangup
";

/// The arguments of personality(2) that are let through: Linux, with the 32-bit and the UNAME26 view, and the question
/// which it is. Others switch off what protects memory.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The flags of clone(2) that make namespaces, each refused.
const NAMESPACE_FLAGS: [u64; 7] =
    [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];

/// ioctls that type into the caller's terminal: TIOCSTI, TIOCLINUX (CVE-2017-5226). The kernel takes the low 32 bits
/// only, and so does the comparison (CVE-2019-10063).
const TERMINAL_IOCTLS: [u64; 2] = [0x5412, 0x541c];

/// Socket families that no network namespace contains: AF_ALG, AF_VSOCK.
const REFUSED_FAMILIES: [u64; 2] = [38, 40];

/// Fills in the profile, where the document has none.
pub fn fill(doc: &mut Document) -> Result<()> {
    doc.name()?;
    let capabilities = json!({ "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES, "inheritable": [], "ambient": [] });
    let rlimits = RLIMITS.map(|(kind, soft, hard)| json!({ "type": kind, "soft": soft, "hard": hard }));
    for (path, value) in [
        ("process.capabilities", capabilities),
        ("process.noNewPrivileges", json!(true)),
        ("process.rlimits", json!(rlimits)),
        ("linux.seccomp", seccomp()),
    ] {
        if doc.get(path).is_none() {
            doc.set(path, value)?;
        }
    }
    Ok(())
}

/// The filter in the format of the OCI runtime specification.
fn seccomp() -> Value {
    let names = |text: &'static str| text.split_ascii_whitespace().collect::<Vec<_>>();
    let allow = |names: &[&str]| json!({ "names": names, "action": "SCMP_ACT_ALLOW" });
    let refuse = |names: &[&str]| json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": nix::libc::EPERM });
    // The rule holds where the argument, masked, is the value.
    let only_if = |mut rule: Value, index: u32, mask: u64, value: u64| {
        rule["args"] = json!([{ "index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ" }]);
        rule
    };
    let low = u64::from(u32::MAX);
    let mut rules = vec![allow(&names(ALLOWED)), refuse(&names(REFUSED))];
    rules.extend(PERSONALITIES.map(|persona| only_if(allow(&["personality"]), 0, low, persona)));
    rules.push(only_if(allow(&["clone"]), 0, NAMESPACE_FLAGS.iter().sum(), 0));
    rules.extend(NAMESPACE_FLAGS.map(|flag| only_if(refuse(&["clone"]), 0, flag, flag)));
    rules.extend(TERMINAL_IOCTLS.map(|request| only_if(refuse(&["ioctl"]), 1, low, request)));
    rules.extend(REFUSED_FAMILIES.map(|family| only_if(refuse(&["socket"]), 0, low, family)));
    // No audit from inside. PAM takes it well that there is none, but not that it is refused.
    rules.push(json!({
        "names": ["socket"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": nix::libc::EAFNOSUPPORT,
        "args": [
            { "index": 0, "value": low, "valueTwo": nix::libc::AF_NETLINK, "op": "SCMP_CMP_MASKED_EQ" },
            { "index": 2, "value": low, "valueTwo": nix::libc::NETLINK_AUDIT, "op": "SCMP_CMP_MASKED_EQ" },
        ],
    }));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": nix::libc::ENOSYS,
        "architectures": [format!("SCMP_ARCH_{}", std::env::consts::ARCH.to_uppercase())],
        "syscalls": rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sbx::confine::Confinement;
    use std::collections::HashSet;

    #[test]
    fn the_profile_is_understood_by_the_routine_that_enforces_it() {
        let mut doc = Document::new(&"a".parse().expect("name"));
        fill(&mut doc).expect("fill");
        Confinement::new(&doc).expect("confinement");
        let again = doc.clone();
        fill(&mut doc).expect("fill");
        assert_eq!(doc, again);
    }

    #[test]
    fn what_the_document_has_is_kept() {
        let mut doc =
            Document::parse(br#"{"sbx":{"name":"a"},"process":{"noNewPrivileges":false,"x":1}}"#).expect("document");
        fill(&mut doc).expect("fill");
        assert_eq!(doc.get("process.noNewPrivileges"), Some(&json!(false)));
        assert_eq!(doc.get("process.x"), Some(&json!(1)));
    }

    #[test]
    fn no_call_is_in_both_lists_and_none_of_the_dangerous_is_let_through() {
        let allowed: HashSet<&str> = ALLOWED.split_ascii_whitespace().collect();
        let refused: HashSet<&str> = REFUSED.split_ascii_whitespace().collect();
        assert_eq!(allowed.intersection(&refused).count(), 0);
        for name in ["mount", "unshare", "setns", "bpf", "open_by_handle_at", "keyctl", "io_uring_setup", "fsopen"] {
            assert!(refused.contains(name) && !allowed.contains(name), "{name}");
        }
        assert!(!allowed.contains("clone3") && !refused.contains("clone3"));
    }

    #[test]
    fn every_listed_call_is_one_that_the_compiler_knows() {
        for name in ALLOWED.split_ascii_whitespace().chain(REFUSED.split_ascii_whitespace()) {
            assert!(sbx::seccomp::is_known(name), "{name}");
        }
    }
}
