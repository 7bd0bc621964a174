//! Addresses of containers on our own network: claims, which are given back when the container is deleted.

use crate::address::Address;
use crate::derive;
use anyhow::{Context, Result, bail};
use sbx::Name;
use sbx::claim::Claims;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn claims() -> Claims {
    Claims::of("addresses")
}

/// The lease of `name` in an IPv4 network, of which the address given is the gateway's: the one that it holds, or else a
/// free one.
pub fn take(name: &Name, gateway: Address) -> Result<Address> {
    let claims = claims();
    let held = claims.list()?.into_iter().filter(|(_, owner)| owner == name.as_str());
    let held = held.filter_map(|(ip, _)| ip.parse::<IpAddr>().ok()).find(|ip| gateway.contains(*ip));
    let ip = match held {
        Some(ip) => ip,
        None => {
            let free = candidates(gateway, derive::number(name)).map(|ip| ip.to_string());
            let taken = claims.take(name, free)?;
            let taken = taken.with_context(|| format!("no address is free for {name} beside {gateway}"))?;
            taken.parse().with_context(|| taken)?
        }
    };
    Ok(Address::new(ip, gateway.prefix))
}

/// Claims an address that was asked for.
pub fn claim(name: &Name, ip: IpAddr) -> Result<()> {
    let claims = claims();
    if claims.take(name, [ip.to_string()])?.is_some() {
        return Ok(());
    }
    let owner = claims.list()?.into_iter().find(|(taken, _)| *taken == ip.to_string());
    match owner {
        Some((_, owner)) if owner != name.as_str() => bail!("the address {ip} is container {owner}'s"),
        _ => Ok(()),
    }
}

/// Gives back what `name` holds.
pub fn release(name: &Name) -> Result<()> {
    claims().release(name)
}

/// The IPv6 address that goes with a lease: the same number in the network of another gateway.
pub fn with(lease: Address, gateway: Address) -> Option<Address> {
    let (IpAddr::V4(lease), IpAddr::V6(gateway_ip)) = (lease.ip, gateway.ip) else { return None };
    let [a, b, c, d, e, f, ..] = gateway_ip.segments();
    let [g, h] = [lease.to_bits() >> 16, lease.to_bits() & 0xffff].map(|half| half as u16);
    (gateway.prefix <= 96).then(|| Address::new(Ipv6Addr::new(a, b, c, d, e, f, g, h).into(), gateway.prefix))
}

/// All addresses of a network but the gateway's and those that mean all of it, from one on and around.
fn candidates(gateway: Address, from: u32) -> impl Iterator<Item = Ipv4Addr> {
    let first = match gateway.first() {
        IpAddr::V4(ip) => ip.to_bits(),
        IpAddr::V6(_) => 0,
    };
    let size = 1_u32.checked_shl(32 - u32::from(gateway.prefix)).unwrap_or(u32::MAX);
    let ends = [Some(gateway.first()), gateway.broadcast().map(IpAddr::V4), Some(gateway.ip)];
    let all = (0..size).map(move |n| {
        Ipv4Addr::from_bits(first + ((from % size) as u64 + u64::from(n)).rem_euclid(size.into()) as u32)
    });
    all.filter(move |ip| !ends.contains(&Some(IpAddr::V4(*ip))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_address_of_a_network_is_a_candidate_once_but_its_ends_and_the_gateway() {
        let gateway = Address::new("192.0.2.1".parse().expect("ip"), 28);
        for from in [0, 7, 15, u32::MAX] {
            let all: Vec<_> = candidates(gateway, from).collect();
            let distinct: HashSet<_> = all.iter().collect();
            assert_eq!((all.len(), distinct.len()), (13, 13));
            assert!(all.iter().all(|ip| gateway.contains((*ip).into()) && ![0, 1, 15].contains(&ip.octets()[3])));
        }
        assert_ne!(candidates(gateway, 3).next(), candidates(gateway, 4).next());
    }

    #[test]
    fn the_other_family_has_the_same_number() {
        let lease = Address::new("10.83.1.2".parse().expect("ip"), 16);
        let gateway = Address::new("fd00:1::1".parse().expect("ip"), 64);
        assert_eq!(with(lease, gateway).map(|ip| ip.to_string()).as_deref(), Some("fd00:1::a53:102/64"));
    }
}
