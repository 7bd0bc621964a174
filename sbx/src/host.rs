//! What kind of host this is.

use std::fs;
use std::path::Path;

/// Where the host's units lie, the strongest first (systemd.unit(5)).
pub const UNIT_DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Whether systemd runs here as PID 1 (sd_booted(3)) and can be asked: its directory alone also exists inside a PID
/// namespace of its own, where PID 1 is another program.
pub fn runs_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
        && fs::read_to_string("/proc/1/comm").is_ok_and(|comm| comm.trim_end() == "systemd")
}

/// Whether SELinux is enabled: the kernel has it and a policy's file system is mounted where libselinux looks.
pub fn runs_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}
