//! Ports of the host that are busy: a published one must be nobody's yet.

use crate::network::{Protocol, Publish};
use crate::record::Record;
use anyhow::{Result, bail};
use sbx::Name;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};

/// Refuses a port that another container or a process of the host has, and names it.
pub fn check(name: &Name, wanted: &[Publish], others: &[Record]) -> Result<()> {
    for publish in wanted {
        let port = publish.port_of_host();
        let mut others = others.iter().filter(|other| other.name.0 != *name);
        if let Some(holder) = others.find(|other| other.publish.iter().any(|taken| taken.overlaps(publish))) {
            bail!("port {port} of the host is published by container {}", holder.name.0);
        }
        for suffix in ["", "6"] {
            let file = format!("/proc/self/net/{}{suffix}", publish.protocol.as_str());
            // Without IPv6 there is none of those.
            let text = fs::read_to_string(file).unwrap_or_default();
            let socket = text.lines().skip(1).filter_map(|line| Socket::parse(line, publish.protocol));
            if let Some(socket) = socket.into_iter().find(|socket| socket.has(publish)) {
                bail!("port {port} of the host is in use by {}", socket.holder());
            }
        }
    }
    Ok(())
}

/// A socket that waits for packets.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    ip: IpAddr,
    port: u16,
    inode: String,
}

impl Socket {
    /// A line of /proc/net/tcp and its like (proc(5)); one that is connected waits for nobody.
    fn parse(line: &str, protocol: Protocol) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let waiting = if protocol == Protocol::Tcp { "0A" } else { "07" };
        let (ip, port) = fields.get(1)?.split_once(':')?;
        // Words of four bytes, each in the order of the machine.
        let words = ip.as_bytes().chunks(8).map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok());
        let bytes: Vec<u8> = words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
        let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
            Ok(bytes) => bytes.into(),
            Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).to_canonical(),
        };
        let port = u16::from_str_radix(port, 16).ok()?;
        (fields.get(3) == Some(&waiting)).then_some(Self { ip, port, inode: (*fields.get(9)?).to_owned() })
    }

    fn has(&self, publish: &Publish) -> bool {
        self.port == publish.host
            && (self.ip.is_unspecified() || publish.address.is_none_or(|address| address == self.ip))
    }

    /// Whose it is, as far as it can be seen.
    fn holder(&self) -> String {
        let link = format!("socket:[{}]", self.inode);
        let has = |process: &fs::DirEntry| {
            let files = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
            files
                .map(|file| fs::read_link(file.path()))
                .any(|target| target.is_ok_and(|target| target.as_os_str() == link.as_str()))
        };
        let is_process = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let process = entries.filter(is_process).find(has);
        process.map_or("a process that is not seen from here".into(), |process| {
            let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            format!("process {} ({})", process.file_name().to_string_lossy(), comm.trim_end())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn a_port_that_a_process_has_is_refused_with_its_name() {
        let name: Name = "a".parse().expect("a name");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let check = |text: String| check(&name, &[text.parse().expect("a port")], &[]);
        let error = check(format!("{port}:80")).expect_err("busy").to_string();
        let expected = format!("port {port}/tcp of the host is in use by process {} (", std::process::id());
        assert!(error.starts_with(&expected), "{error}");
        check(format!("127.0.0.1:{port}:80")).expect_err("busy");
        check(format!("192.0.2.1:{port}:80")).expect("another address");
        drop(listener);
        check(format!("{port}:80")).expect("free again");
        let socket = UdpSocket::bind("[::]:0").expect("a port");
        let port = socket.local_addr().expect("an address").port();
        check(format!("127.0.0.1:{port}:80/udp")).expect_err("busy, for both families");
    }
}
