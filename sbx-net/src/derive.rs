//! What is derived from names, the same each time: names of interfaces on the host, hardware addresses, and the
//! network of this host's own.

use crate::address::{Address, Mac};
use crate::network::MAX_LINK;
use sbx::Name;
use sha2::{Digest, Sha256};
use std::fs;
use std::net::Ipv6Addr;

/// How many hexadecimal digits of a digest tell apart what begins alike.
const DIGITS: usize = 6;

/// The host's end of an interface: the beginning of the container's name, to be read, and a digest, to be unique.
pub fn link(name: &Name, interface: &str) -> String {
    let digest = digest(&[name.as_str(), interface]);
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let readable: String = name.as_str().chars().take(MAX_LINK - DIGITS - 1).collect();
    format!("{readable}-{}", &digits[..DIGITS])
}

/// The hardware address of an interface: unique also beside other hosts', and marked as assigned locally.
pub fn mac(name: &Name, interface: &str, end: &str) -> Mac {
    let digest = digest(&[&machine_id(), name.as_str(), interface, end]);
    Mac([digest[0] & 0xfc | 2, digest[1], digest[2], digest[3], digest[4], digest[5]])
}

/// A number for a name, to begin a search with.
pub fn number(name: &Name) -> u32 {
    let digest = digest(&[name.as_str()]);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// The first address of a network that no other host has (RFC 4193).
pub fn unique_local() -> Address {
    let digest = digest(&[&machine_id(), "network"]);
    let mut bytes = [0; 16];
    bytes[0] = 0xfd;
    bytes[1..6].copy_from_slice(&digest[..5]);
    bytes[15] = 1;
    Address::new(Ipv6Addr::from(bytes).into(), 64)
}

fn machine_id() -> String {
    fs::read_to_string("/etc/machine-id").unwrap_or_default()
}

fn digest(parts: &[&str]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::link_name;
    use std::collections::HashSet;

    #[test]
    fn names_that_begin_alike_have_links_and_addresses_of_their_own() {
        let names: Vec<Name> = (0..500).map(|n| format!("customer-webserver-{n}").parse().expect("a name")).collect();
        let links: HashSet<String> = names.iter().map(|name| link(name, "eth0")).collect();
        assert_eq!(links.len(), 500);
        assert!(links.iter().all(|link| link.starts_with("customer-") || link.starts_with("customer")), "{links:?}");
        assert!(links.iter().all(|link| link_name(link).is_ok()));
        let macs: HashSet<String> = names.iter().map(|name| mac(name, "eth0", "").to_string()).collect();
        assert_eq!(macs.len(), 500);
        assert!(macs.iter().all(|mac| mac.parse::<Mac>().is_ok_and(|mac| mac.0[0] & 3 == 2)));
        let name = &names[0];
        assert_ne!(link(name, "eth0"), link(name, "eth1"));
        assert_eq!(link(name, "eth0"), link(name, "eth0"));
    }
}
