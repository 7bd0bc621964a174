//! What a container is told of the host's name servers (resolv.conf(5)).

use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// Where they may be told: for all programs, and by systemd-resolved for those that do not ask it (its man page).
const FILES: [&str; 2] = ["etc/resolv.conf", "run/systemd/resolve/resolv.conf"];

/// The text of the first file that names a server which is not the host itself, without those that are: a container has
/// a loopback of its own, where no resolver listens. Without one it is empty.
pub fn of_host(host: &Path) -> String {
    let texts = FILES.iter().filter_map(|file| fs::read_to_string(host.join(file)).ok());
    texts.filter_map(|text| reachable(&text)).next().unwrap_or_default()
}

fn reachable(text: &str) -> Option<String> {
    let mut has_server = false;
    let lines = text.lines().filter(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["nameserver", server] => {
            let address = server.split('%').next().unwrap_or_default().parse();
            let is_reachable = address.is_ok_and(|address: IpAddr| !address.is_loopback() && !address.is_unspecified());
            has_server |= is_reachable;
            is_reachable
        }
        ["search" | "domain" | "options", ..] => true,
        _ => false,
    });
    let lines: String = lines.map(|line| format!("{line}\n")).collect();
    has_server.then_some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn real_servers_are_told_and_the_hosts_own_resolver_is_not() {
        let host = Scratch::new("resolvers");
        assert_eq!(of_host(host.path()), "");
        let write = |file: &str, text: &str| {
            let path = host.path().join(file);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, text).expect("a file");
        };
        write("etc/resolv.conf", "# a stub\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n");
        assert_eq!(of_host(host.path()), "");
        write(
            "run/systemd/resolve/resolv.conf",
            "nameserver 192.0.2.1\nnameserver ::1\nnameserver fe80::1%eth0\nsearch a b\n",
        );
        assert_eq!(of_host(host.path()), "nameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch a b\n");
        write("etc/resolv.conf", "domain lan\nnameserver 0.0.0.0\nnameserver 2001:db8::1\nsortlist x\n");
        assert_eq!(of_host(host.path()), "domain lan\nnameserver 2001:db8::1\n");
    }
}
