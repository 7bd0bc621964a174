//! Our own network: the bridge sbx0 has the gateway's addresses, and is there as long as a container uses them.
//!
//! Containers are no ports of it (docs/decisions/0022-routed.md): what they send is routed. One that an administrator has
//! made before is used as it is, with its addresses, and stays.

use crate::address::Address;
use crate::derive;
use crate::netlink::{self, Netlink};
use crate::record;
use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// Its name.
const NAME: &str = "sbx0";

/// The gateway, where an administrator has not chosen another.
const GATEWAY: Address = Address::new(IpAddr::V4(Ipv4Addr::new(10, 83, 0, 1)), 16);

/// What is undone with the last user.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Whether the bridge is of our making.
    made: bool,
    /// Settings of the kernel that were changed, and what they were before.
    settings: Vec<Setting>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Setting {
    path: String,
    before: String,
    after: String,
}

/// The addresses of the gateway, of each family that there is.
#[derive(Debug, Clone, Copy)]
pub struct Gateways {
    pub v4: Address,
    pub v6: Option<Address>,
}

impl Gateways {
    /// That of an address's family.
    pub fn of(self, ip: IpAddr) -> Option<Address> {
        if ip.is_ipv6() { self.v6 } else { Some(self.v4) }
    }

    /// All that there are.
    pub fn all(self) -> impl Iterator<Item = Address> {
        [Some(self.v4), self.v6].into_iter().flatten()
    }
}

/// Whether this host speaks IPv6.
pub fn has_ipv6() -> bool {
    let is_off = |of: &str| {
        fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{of}/disable_ipv6")).map(|text| text.trim() != "0")
    };
    ["all", "default"].into_iter().all(|of| is_off(of).is_ok_and(|is_off| !is_off))
}

/// Makes the bridge, unless it is there, and has the host pass packets on.
pub fn make(host: &Netlink) -> Result<Gateways> {
    let mut record = record::read::<Record>(&record::of_bridge())?.unwrap_or_default();
    let link = host.link(NAME)?;
    if let Some(link) = &link {
        ensure!(link.is_bridge, "{NAME} is no bridge");
    } else {
        let routes = host.routes().context("cannot read the routes")?;
        if let Some(route) = routes.into_iter().find(|route| route.prefix > 0 && route.overlaps(GATEWAY)) {
            bail!(
                "cannot make {NAME}: the host has a route to {route}, which has addresses of {GATEWAY}: \
                make a bridge {NAME} with another address before"
            );
        }
        record.made = true;
    }
    keep(&record)?;
    let link = match link {
        Some(link) => link,
        None => {
            host.add_bridge(NAME)
                .map_err(|error| match netlink::is(&error, Errno::EOPNOTSUPP) {
                    true => error.context("this kernel has no bridges"),
                    false => error,
                })
                .with_context(|| format!("cannot make {NAME}"))?;
            host.link(NAME)?.with_context(|| format!("{NAME} is gone"))?
        }
    };
    if record.made {
        let v6 = Some(derive::unique_local()).filter(|_| has_ipv6());
        for address in [Some(GATEWAY), v6].into_iter().flatten() {
            host.add_address(link.index, &address, true)?;
        }
    }
    pass_on(&mut record)?;
    let found = gateways(host, link.index)?;
    found.with_context(|| format!("{NAME} has no IPv4 address"))
}

/// The addresses of the bridge that there is.
pub fn look(host: &Netlink) -> Result<Option<Gateways>> {
    host.link(NAME)?.map_or(Ok(None), |link| gateways(host, link.index))
}

fn gateways(host: &Netlink, index: u32) -> Result<Option<Gateways>> {
    let addresses = host.addresses(index).with_context(|| format!("cannot read the addresses of {NAME}"))?;
    let v6 = addresses.iter().copied().find(|address| match address.ip {
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    });
    let v4 = addresses.into_iter().find(|address| address.ip.is_ipv4());
    Ok(v4.map(|v4| Gateways { v4, v6: v6.filter(|_| has_ipv6()) }))
}

/// Has the host route between its interfaces. A host that takes its own IPv6 routes from advertisements would no longer
/// do so (the kernel's ip-sysctl): it is told to go on.
fn pass_on(record: &mut Record) -> Result<()> {
    change(record, "/proc/sys/net/ipv4/ip_forward", "1")?;
    let forward = "/proc/sys/net/ipv6/conf/all/forwarding";
    if !has_ipv6() || read(forward)? == "1" {
        return Ok(());
    }
    for interface in sbx::store::entries(Path::new("/proc/sys/net/ipv6/conf"))? {
        let path = interface.join("accept_ra").display().to_string();
        let is_one = !["all", "default", "lo"].iter().any(|other| interface.ends_with(other));
        if is_one && read(&path).is_ok_and(|value| value == "1") {
            change(record, &path, "2")?;
        }
    }
    change(record, forward, "1")
}

fn change(record: &mut Record, path: &str, after: &str) -> Result<()> {
    let before = read(path)?;
    if before != after {
        record.settings.push(Setting { path: path.to_owned(), before, after: after.to_owned() });
        keep(record)?;
        fs::write(path, after).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

fn read(path: &str) -> Result<String> {
    Ok(fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?.trim().to_owned())
}

fn keep(record: &Record) -> Result<()> {
    record::write(&record::of_bridge(), record)
}

/// Takes back what was made for the users, of whom there is none any more. What somebody has set since stays.
pub fn remove(host: &Netlink) -> Result<()> {
    let path = record::of_bridge();
    let Some(record) = record::read::<Record>(&path)? else { return record::remove(&path) };
    if record.made {
        host.delete(NAME)?;
    }
    for Setting { path, before, after } in record.settings.iter().rev() {
        // An interface may be gone.
        if read(path).is_ok_and(|now| now == *after) {
            fs::write(path, before).with_context(|| format!("cannot write {path}"))?;
        }
    }
    record::remove(&path)
}
