//! What sbx itself puts into a private tree, beside what it clones. The names are here for those who make it, and for
//! those who must tell it from what an administrator has made. Paths are beneath the tree.

use std::ffi::OsStr;
use std::path::Path;

/// The units of the container's systemd.
pub const UNITS: &str = "etc/systemd/system";

/// The unit that the container's systemd starts.
pub const TARGET: &str = "sbx.target";

/// The unit that makes a TLS key of the container's own where there is none, the key, and its certificate.
pub const SNAKEOIL: &str = "sbx-snakeoil.service";
/// The key.
pub const SNAKEOIL_KEY: &str = "etc/ssl/private/ssl-cert-snakeoil.key";
const SNAKEOIL_CERTIFICATE: &str = "etc/ssl/certs/ssl-cert-snakeoil.pem";

/// The drop-in of a unit that switches off what cannot be had inside. Drop-ins apply in the order of their names: after
/// what the administrator's own say.
pub const DROP_IN: &str = "zz-sbx.conf";

/// What the container's systemd must not start: a login on a console that is not there, and an SSH server that systemd
/// 256 offers on sockets of its own wherever the host has one installed.
pub const MASKS: [&str; 2] =
    ["etc/systemd/system/console-getty.service", "etc/systemd/system-generators/systemd-ssh-generator"];

/// Who the container is, that it has no disks, and whom it asks for names.
pub const IDENTITY: [&str; 5] = ["etc/machine-id", "etc/hostname", "etc/hosts", "etc/fstab", "etc/resolv.conf"];

/// Whether a path of a private tree, absolute in it, is one of these.
pub fn is_ours(path: &Path) -> bool {
    let path = path.strip_prefix("/").unwrap_or(path);
    let is_unit = |name: &OsStr| {
        let directory = path.parent().unwrap_or(path);
        match directory.parent() {
            Some(units) if units == Path::new(UNITS) => name == DROP_IN,
            _ => directory == Path::new(UNITS) && [TARGET, SNAKEOIL].iter().any(|unit| name == *unit),
        }
    };
    IDENTITY.iter().chain(&MASKS).chain(&[SNAKEOIL_KEY, SNAKEOIL_CERTIFICATE]).any(|other| Path::new(other) == path)
        || path.file_name().is_some_and(is_unit)
}
