//! The few system calls that neither nix nor rustix offers in the form that we need, and the only unsafe code.

#![allow(unsafe_code)]

use nix::libc;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

/// A child process.
#[derive(Debug)]
pub struct Child {
    /// Its pid in the caller's PID namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

/// clone3(2), Linux 5.7; the C library's headers have it as a number that does not fit an int.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The highest signal number (signal(7), the kernel's `_NSIG`).
const LAST_SIGNAL: i32 = 64;

fn checked(result: libc::c_long) -> Result<libc::c_long> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// Makes a child process, as fork(2) does, in new namespaces (`CLONE_NEW*` in `flags`) and, on cgroup v2, born in the
/// given cgroup (clone3(2): Linux 5.3; `CLONE_INTO_CGROUP`: 5.7). Returns `None` in the child.
///
/// The tools have one thread each; a child of a process with more could find a lock held for ever.
pub fn clone3(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> Result<Option<Child>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain data, for which zero means "not given".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags as u64 | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and with no stack given, the child continues on a copy of this stack, as after fork;
    // `args` and `pidfd` outlive the call.
    let pid = checked(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) })?;
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Some(Child { pid: pid as i32, pidfd }))
}

/// Makes a child process in the caller's namespaces. Returns `None` in the child.
pub fn fork() -> Result<Option<Child>> {
    clone3(0, None)
}

/// Changes the attributes of the mount at `mount` itself, and of all mounts below it if `recursive` (mount_setattr(2),
/// Linux 5.12). `set` and `clear` are `MOUNT_ATTR_*`; `propagation` is `MS_PRIVATE` or the like, or 0.
pub fn mount_setattr(mount: impl AsFd, recursive: bool, set: u64, clear: u64, propagation: u64) -> Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
    set_attr(mount.as_fd(), recursive, &attr)
}

/// Has all mounts of the tree at `mount`, which is attached nowhere yet, show the ids of their files as a user namespace
/// maps them (mount_setattr(2), `MOUNT_ATTR_IDMAP`: Linux 5.12). A file system that cannot do so is an error: EINVAL.
pub fn mount_id_map(mount: impl AsFd, users: impl AsFd) -> Result<()> {
    let userns_fd = users.as_fd().as_raw_fd() as u64;
    let attr = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set_attr(mount.as_fd(), true, &attr)
}

fn set_attr(mount: BorrowedFd<'_>, recursive: bool, attr: &libc::mount_attr) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let fd = mount.as_raw_fd();
    // SAFETY: the path is an empty C string, and `attr` outlives the call, which only reads it.
    checked(unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, &raw const *attr, size_of_val(attr))
    })?;
    Ok(())
}

/// The number of a loop device that is free, for now (`LOOP_CTL_GET_FREE` of loop(4)).
pub fn loop_get_free(control: impl AsFd) -> Result<libc::c_long> {
    const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
    // SAFETY: takes no argument and touches no memory.
    checked(unsafe { libc::syscall(libc::SYS_ioctl, control.as_fd().as_raw_fd(), LOOP_CTL_GET_FREE) })
}

/// Makes a loop device of a file, until nobody has it open or mounted (`LOOP_CONFIGURE`, Linux 5.8).
pub fn loop_configure(device: impl AsFd, file: impl AsFd, read_only: bool) -> Result<()> {
    const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
    const LO_FLAGS_READ_ONLY: u32 = 1;
    const LO_FLAGS_AUTOCLEAR: u32 = 4;
    /// What of `struct loop_config` of linux/loop.h matters; the rest means "as usual" if it is zero.
    #[repr(C)]
    struct Config {
        fd: u32,
        block_size: u32,
        before_flags: [u32; 13],
        flags: u32,
        after_flags: [u64; 30],
    }
    const { assert!(size_of::<Config>() == 304 && std::mem::offset_of!(Config, flags) == 60) };
    let config = Config {
        fd: file.as_fd().as_raw_fd() as u32,
        block_size: 0,
        before_flags: [0; 13],
        flags: LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 },
        after_flags: [0; 30],
    };
    // SAFETY: `config` is as long as the kernel's struct, outlives the call, and is only read.
    checked(unsafe { libc::syscall(libc::SYS_ioctl, device.as_fd().as_raw_fd(), LOOP_CONFIGURE, &raw const config) })?;
    Ok(())
}

/// Device and inode of the file that a loop device is made of (`LOOP_GET_STATUS64` of loop(4)).
pub fn loop_file(device: impl AsFd) -> Result<(u64, u64)> {
    const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;
    // `struct loop_info64` of linux/loop.h, which begins with the two; as an array, so that each bit pattern is sound.
    let mut info = [0_u64; 29];
    // SAFETY: `info` is as long as the kernel's struct, and outlives the call, which writes no more than that.
    checked(unsafe {
        libc::syscall(libc::SYS_ioctl, device.as_fd().as_raw_fd(), LOOP_GET_STATUS64, info.as_mut_ptr())
    })?;
    Ok((info[0], info[1]))
}

/// Gives a loop device the size that its file has by now (`LOOP_SET_CAPACITY` of loop(4)).
pub fn loop_set_capacity(device: impl AsFd) -> Result<()> {
    const LOOP_SET_CAPACITY: libc::c_ulong = 0x4c07;
    // SAFETY: takes no argument and touches no memory.
    checked(unsafe { libc::syscall(libc::SYS_ioctl, device.as_fd().as_raw_fd(), LOOP_SET_CAPACITY) })?;
    Ok(())
}

/// Grows a mounted ext4 file system, of which `root` is a directory, to so many blocks (`EXT4_IOC_RESIZE_FS` of the
/// kernel's fs/ext4/ext4.h).
pub fn ext4_resize(root: impl AsFd, blocks: u64) -> Result<()> {
    const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;
    // SAFETY: the kernel reads a number of 64 bits, which outlives the call.
    checked(unsafe {
        libc::syscall(libc::SYS_ioctl, root.as_fd().as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks)
    })?;
    Ok(())
}

/// Sets the loopback interface of the caller's network namespace up, whereby it gets its addresses (netdevice(7)).
pub fn set_loopback_up() -> Result<()> {
    // Any socket does, and this one there is on every kernel.
    let socket = UnixDatagram::unbound()?;
    // SAFETY: ifreq is plain data, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the kernel reads the struct, which outlives the call, and writes nothing.
    checked(unsafe { libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })?;
    Ok(())
}

/// Has a BPF program decide which devices the processes of a cgroup may use, in place of the one that a call before
/// this one has attached (bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`: Linux 4.15). It goes with the cgroup.
pub fn restrict_devices(cgroup: impl AsFd, program: &[u64]) -> Result<()> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_ATTACH: libc::c_long = 8;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const BPF_CGROUP_DEVICE: u32 = 6;
    /// What of `union bpf_attr` of linux/bpf.h matters to load a program; what follows is zero.
    #[repr(C)]
    struct Load {
        kind: u32,
        length: u32,
        program: u64,
        license: u64,
    }
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        place: u32,
        flags: u32,
    }
    let length = u32::try_from(program.len()).map_err(|_| Error::from_raw_os_error(libc::E2BIG))?;
    let (program, license) = (program.as_ptr() as u64, c"Apache-2.0".as_ptr() as u64);
    let load = Load { kind: BPF_PROG_TYPE_CGROUP_DEVICE, length, program, license };
    // SAFETY: the kernel reads `load`, the program and the license, which outlive the call and are as long as it is
    // told or end with a zero.
    let fd = checked(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of_val(&load)) })?;
    // SAFETY: the kernel has just made this descriptor for us, with close-on-exec, and nobody else owns it.
    let program = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let target = cgroup.as_fd().as_raw_fd() as u32;
    let attach = Attach { target, program: program.as_raw_fd() as u32, place: BPF_CGROUP_DEVICE, flags: 0 };
    // SAFETY: the kernel reads `attach`, which outlives the call.
    checked(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of_val(&attach)) })?;
    Ok(())
}

/// Installs one seccomp filter for this thread (seccomp(2)), with `SECCOMP_FILTER_FLAG_*`. Needs no_new_privs or
/// CAP_SYS_ADMIN.
pub fn seccomp(program: &[libc::sock_filter], flags: libc::c_ulong) -> Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| Error::from_raw_os_error(libc::E2BIG))?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program and does not write to it.
    checked(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const fprog) })?;
    Ok(())
}

/// Joins a new, anonymous session keyring (keyctl(2)), so that the caller's keys are not possessed inside. A kernel
/// without keys has none to leak.
pub fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring; nothing is written to memory.
    let joined = checked(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    });
    match joined {
        Err(error) if error.raw_os_error() != Some(libc::ENOSYS) => Err(error),
        _ => Ok(()),
    }
}

/// Closes the descriptors `first` to `last` (close_range(2), Linux 5.9). What owns one of them must not be used again:
/// for a process that has just been executed and knows which descriptors are its own.
pub fn close(first: u32, last: u32) -> Result<()> {
    // SAFETY: touches no memory; the caller gives up these descriptors, as the comment above demands.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    Ok(())
}

/// Marks all descriptors from `first` on to be closed by exec (close_range(2), `CLOSE_RANGE_CLOEXEC`: Linux 5.11).
pub fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: touches no memory, and closes nothing now.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Takes over a descriptor that this program was started with.
pub fn inherited(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: fcntl on any number is sound; it fails on one that is not open.
    checked(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: it is open (checked above), and whoever executed this program left it to us to own.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// An error if there is no descriptor of this number.
pub fn check_open(number: RawFd) -> Result<()> {
    // SAFETY: fcntl on any number is sound, and this changes nothing.
    checked(unsafe { libc::fcntl(number, libc::F_GETFD) }.into()).map(drop)
}

/// Makes `number` a copy of `fd` that survives exec. For a child that is about to execute another program.
pub fn place(fd: impl AsFd, number: RawFd) -> Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    if fd == number {
        // SAFETY: touches no memory; clears close-on-exec of a descriptor that is borrowed, thus open.
        checked(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }.into())?;
    } else {
        // SAFETY: touches no memory; whatever owns `number` in this process is not used again before exec.
        checked(unsafe { libc::dup2(fd, number) }.into())?;
    }
    Ok(())
}

/// Sends a signal to the process behind a pidfd (pidfd_send_signal(2), Linux 5.1). Realtime signals too, which the
/// safe interfaces leave out.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo asks the kernel to fill it in as kill(2) does.
    checked(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::siginfo_t>(), 0) })?;
    Ok(())
}

/// Resets every signal that can be caught to its default, and blocks none: what a new program expects, whatever its
/// caller ignored (signal(7)).
pub fn reset_signals() {
    (1..=LAST_SIGNAL).for_each(|signal| set_action(signal, libc::SIG_DFL));
    let none = 0_u64;
    // SAFETY: the kernel reads a mask of 8 bytes, and writes nothing.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, std::ptr::null::<u64>(), 8) };
}

/// Ignores every signal that can be, but for that of a child's end: so do programs that this one executes, whatever they
/// block (signal(7)).
pub fn ignore_signals() {
    (1..=LAST_SIGNAL).filter(|signal| *signal != libc::SIGCHLD).for_each(|signal| set_action(signal, libc::SIG_IGN));
}

/// Not by the C library, which leaves out the signals that it uses itself. `action` is `SIG_DFL` or `SIG_IGN`.
fn set_action(signal: i32, action: libc::sighandler_t) {
    // `struct sigaction` as the kernel has it: the action, no flags, no restorer, an empty mask.
    let action = [action as u64, 0, 0, 0];
    // SAFETY: neither action runs code of ours. The kernel reads the struct, which is as long as it expects, and writes
    // nothing; what cannot be caught is an error that changes nothing.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), std::ptr::null::<u64>(), 8) };
}

/// Has this process, and what it executes, take the processor from nobody who runs, and else be as others are
/// (`SCHED_BATCH` of sched(7)). Not by the C library: musl has no call for it.
pub fn run_in_batch() -> Result<()> {
    let priority: libc::c_int = 0;
    // SAFETY: the kernel reads `struct sched_param` of sched.h, which is one int, and writes nothing.
    checked(unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, &raw const priority) })?;
    Ok(())
}

/// Undoes what exec has handed on. Who ignored SIGCHLD would lose the status of each child (wait(2)); and what a shell starts in
/// the background, such as the steps of a pipe, ignores SIGINT and SIGQUIT, by which all of them are to end.
pub fn reset_inherited() {
    [libc::SIGCHLD, libc::SIGINT, libc::SIGQUIT].into_iter().for_each(|signal| set_action(signal, libc::SIG_DFL));
}

/// Whether this program has rights that whoever executed it has not (`AT_SECURE` of getauxval(3)): it is set-user-ID, or
/// its file has capabilities.
pub fn is_secure() -> bool {
    // SAFETY: reads what the kernel has told this process, and touches nothing else.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Ends the process at once, without what runs at exit: for a child made by [`clone3`].
pub fn exit(status: i32) -> ! {
    // SAFETY: never returns and touches no memory.
    unsafe { libc::_exit(status) }
}
