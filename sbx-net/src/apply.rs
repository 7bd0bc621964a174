//! Brings a container's network up, tells of it, and takes it away.

use crate::address::{Address, Mac};
use crate::bridge::{self, Gateways};
use crate::netlink::{End, Hop, Link, Netlink};
use crate::network::{Interface, Mode, Network, Publish, Text};
use crate::record::{self, Made, Record};
use crate::{derive, edit, firewall, lease, ports};
use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use sbx::process::{Live, Recorded};
use sbx::{Document, Name, namespace, store, tool};
use serde_json::json;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};

/// The index of the loopback interface: the first that a network namespace has.
const LOOPBACK: u32 = 1;

/// Makes the interfaces and the rules of a container, in its own network namespace and outside. Without one there is
/// nothing to do: the host's is never touched.
pub fn up(doc: &Document, act: bool) -> Result<()> {
    let name = doc.name()?;
    let network = edit::of(doc)?;
    let holder = sbx::holder::of(doc)?.with_context(|| format!("container {name} is not running"))?;
    let namespaces = namespace::of(doc)?;
    let own = namespaces.iter().find(|(kind, _)| kind.flag == CloneFlags::CLONE_NEWNET).map(|(_, own)| own);
    let is_made = own.is_some_and(|own| own.path.is_none());
    ensure!(is_made || network.interfaces.is_empty(), "sbx.net.interfaces: {name} has no network namespace of its own");
    let host = Netlink::open()?;
    for interface in network.interfaces.iter().filter(|interface| !interface.is_ours()) {
        source(&host, interface)?;
    }
    ports::check(&name, &network.publish, &live(&[&name])?)?;
    if !act || own.is_none() {
        return Ok(());
    }
    let inside = Inside::of(&holder)?;
    if is_made {
        lead_to(&name, &holder)?;
    } else {
        let set_up = inside.run(|inside| inside.set_up(LOOPBACK));
        set_up.with_context(|| format!("cannot set the loopback interface of {name} up"))?;
    }
    if network.interfaces.is_empty() {
        return Ok(());
    }
    let _lock = record::lock()?;
    let recorded: Recorded = doc.require("sbx.state.holder")?;
    let making = Making { name: &name, network: &network, host: &host, inside: &inside };
    if let Some(record) = Record::of(&name)?.filter(|record| record.complete && record.holder == recorded) {
        return making.again(record);
    }
    making.all(recorded).inspect_err(|_| {
        // What went wrong is worth more than what goes wrong now.
        let _ = take_down(&name, &host);
    })
}

/// The bridge or parent of an interface that is not on our own network.
fn source(host: &Netlink, interface: &Interface) -> Result<Link> {
    let (name, source) = (&interface.name, &interface.source);
    let link = host.link(source)?.with_context(|| format!("{name}: there is no {source}"))?;
    ensure!(link.is_bridge || interface.mode != Mode::Bridge, "{name}: {source} is no bridge");
    Ok(link)
}

/// Leaves a link to the container's network namespace, for others that join it.
fn lead_to(name: &Name, holder: &Live) -> Result<()> {
    let path = edit::namespace_of(name);
    match symlink(format!("/proc/{}/ns/net", holder.pid), &path) {
        // A container whose document is not kept has no directory.
        Err(error) if [ErrorKind::AlreadyExists, ErrorKind::NotFound].contains(&error.kind()) => Ok(()),
        made => made.with_context(|| format!("cannot make {}", path.display())),
    }
}

/// A container's network namespace, and the way back.
struct Inside {
    namespace: OwnedFd,
    host: OwnedFd,
}

impl Inside {
    fn of(holder: &Live) -> Result<Self> {
        let open = |process: &str| {
            let path = format!("/proc/{process}/ns/net");
            File::open(&path).with_context(|| format!("cannot open {path}"))
        };
        let (namespace, host) = (open(&holder.pid.to_string())?, open("self")?);
        // What is open is its own: it still lives, and so nobody else has its pid.
        ensure!(!holder.has_ended()?, "process {} has ended", holder.pid);
        let is_host = namespace.metadata()?.ino() == host.metadata()?.ino();
        ensure!(!is_host, "process {} is in the network namespace of the host: not a container", holder.pid);
        Ok(Self { namespace: namespace.into(), host: host.into() })
    }

    /// Does something inside, where only the kernel is another: files are the host's, but for those of /proc/sys/net.
    fn run<T>(&self, what: impl FnOnce(&Netlink) -> Result<T>) -> Result<T> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET).context("cannot join a network namespace")?;
        let done = Netlink::open().and_then(|inside| what(&inside));
        setns(&self.host, CloneFlags::CLONE_NEWNET).context("cannot leave a network namespace")?;
        done
    }
}

/// What it takes to make a container's interfaces.
struct Making<'a> {
    name: &'a Name,
    network: &'a Network,
    host: &'a Netlink,
    inside: &'a Inside,
}

impl Making<'_> {
    /// Each thing is written down before it is made, and nothing is connected before its rules are there.
    fn all(&self, holder: Recorded) -> Result<()> {
        let others = live(&[self.name])?;
        ports::check(self.name, &self.network.publish, &others)?;
        take_down(self.name, self.host)?;
        let ours = self.network.interfaces.iter().any(Interface::is_ours);
        let mut record = Record {
            name: Text(self.name.clone()),
            holder,
            complete: false,
            interfaces: self.network.interfaces.iter().map(|interface| self.made(interface)).collect(),
            publish: self.network.publish.clone(),
            allow: self.network.allow.clone(),
            egress: self.network.egress.clone(),
        };
        record.keep()?;
        let mut gateways = None;
        if ours {
            let found = bridge::make(self.host)?;
            for made in record.interfaces.iter_mut().filter(|made| made.is_ours()) {
                made.addresses = self.leased(made, found)?;
            }
            record.keep()?;
            let mut all = others;
            all.push(record.clone());
            firewall::load(&all, found)?;
            gateways = Some(found);
        }
        for (interface, made) in self.network.interfaces.iter().zip(&record.interfaces) {
            self.one(interface, made, gateways)
                .with_context(|| format!("cannot make {} of {}", made.name, self.name))?;
        }
        record.complete = true;
        record.keep()
    }

    /// Of what is up, who may connect can change; nothing else.
    fn again(&self, before: Record) -> Result<()> {
        let Network { publish, allow, egress, .. } = self.network.clone();
        let record = Record { publish, allow, egress, ..before.clone() };
        let Some(link) = before.ours().and_then(|made| made.link.as_ref()).filter(|_| record != before) else {
            return Ok(());
        };
        let mut all = live(&[self.name])?;
        ports::check(self.name, &record.publish, &all)?;
        open_loopback(link, &record.publish)?;
        record.keep()?;
        all.push(record);
        let gateways = bridge::look(self.host)?.context("the bridge is gone")?;
        firewall::load(&all, gateways).inspect_err(|_| {
            let _ = before.keep();
        })
    }

    /// What there is to know of an interface before it is made.
    fn made(&self, interface: &Interface) -> Made {
        let mac = || interface.mac.clone().unwrap_or_else(|| Text(derive::mac(self.name, &interface.name, "inside")));
        Made {
            name: interface.name.clone(),
            mode: interface.mode,
            source: interface.source.clone(),
            link: Some(derive::link(self.name, &interface.name)).filter(|_| interface.mode == Mode::Bridge),
            mac: Some(interface.mode).filter(|mode| *mode != Mode::Ipvlan).map(|_| mac()),
            addresses: interface.addresses.clone(),
        }
    }

    /// The addresses of an interface on our own network: those asked for, or a lease of each family.
    fn leased(&self, made: &Made, gateways: Gateways) -> Result<Vec<Text<Address>>> {
        if made.addresses.is_empty() {
            let lease = lease::take(self.name, gateways.v4)?;
            let other = gateways.v6.and_then(|gateway| lease::with(lease, gateway));
            return Ok([Some(lease), other].into_iter().flatten().map(Text).collect());
        }
        for address in &made.addresses {
            lease::claim(self.name, address.0.ip)?;
        }
        Ok(made.addresses.clone())
    }

    fn one(&self, interface: &Interface, made: &Made, gateways: Option<Gateways>) -> Result<()> {
        // One of an up that was cut short, whose other end was not written down.
        self.inside.run(|inside| inside.delete(&made.name))?;
        let mac = made.mac.as_ref().map(|mac| mac.0);
        let mtu = interface.mtu.unwrap_or(0);
        let there = End { name: &made.name, mac, mtu };
        let namespace = &self.inside.namespace;
        let Some(link) = &made.link else {
            let parent = source(self.host, interface)?.index;
            self.host.add_child(&there, parent, made.mode == Mode::Macvlan, namespace)?;
            return self.configure(interface, made, None);
        };
        let far = derive::mac(self.name, &made.name, "outside");
        let bridge =
            Some(interface).filter(|interface| !interface.is_ours()).map(|of| source(self.host, of)).transpose()?;
        let mtu = interface.mtu.or(bridge.as_ref().map(|bridge| bridge.mtu)).unwrap_or(0);
        self.host.add_pair(&End { name: link, mac: Some(far), mtu }, &End { mtu, ..there }, namespace)?;
        let index = self.host.link(link)?.context("it is gone")?.index;
        if let Some(bridge) = bridge {
            self.host.isolate(index, bridge.index)?;
            self.host.set_up(index)?;
            return self.configure(interface, made, None);
        }
        let gateways = gateways.context("there is no gateway")?;
        set(&format!("/proc/sys/net/ipv6/conf/{link}/addr_gen_mode"), "1")?;
        open_loopback(link, &self.network.publish)?;
        self.host.set_up(index)?;
        self.configure(interface, made, Some((gateways, far)))?;
        for Text(address) in &made.addresses {
            let source = gateways.of(address.ip).map(|gateway| gateway.ip);
            self.host.add_route(index, Address::host(address.ip), &Hop { via: None, source })?;
            if let Some(mac) = mac {
                self.host.add_neighbour(index, address.ip, mac)?;
            }
        }
        Ok(())
    }

    /// Gives an interface its addresses and routes, inside. On our own network all leads by the gateway, whose hardware
    /// address is known.
    fn configure(&self, interface: &Interface, made: &Made, gateway: Option<(Gateways, Mac)>) -> Result<()> {
        self.inside.run(|inside| {
            let index = inside.link(&made.name)?.context("it is gone")?.index;
            let name = &made.name;
            // Its addresses are those that it is given, and its routes too.
            for (setting, value) in [("accept_ra", "0"), ("autoconf", "0"), ("accept_redirects", "0")] {
                set(&format!("/proc/sys/net/ipv6/conf/{name}/{setting}"), value)?;
            }
            if gateway.is_some() {
                set(&format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"), "1")?;
            }
            for of in ["all", name] {
                set(&format!("/proc/sys/net/ipv4/conf/{of}/accept_redirects"), "0")?;
            }
            inside.set_up(index)?;
            for Text(address) in &made.addresses {
                inside.add_address(index, address, gateway.is_none())?;
            }
            if let Some((gateways, mac)) = gateway {
                for gateway in gateways.all().map(|gateway| gateway.ip) {
                    if made.addresses.iter().all(|address| address.0.ip.is_ipv6() != gateway.is_ipv6()) {
                        continue;
                    }
                    inside.add_neighbour(index, gateway, mac)?;
                    inside.add_route(index, Address::host(gateway), &Hop::default())?;
                    let any = match gateway {
                        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                    };
                    inside.add_route(index, Address::new(any, 0), &Hop { via: Some(gateway), source: None })?;
                }
            }
            for route in &interface.routes {
                inside.add_route(index, route.to.0, &Hop { via: Some(route.via), source: None })?;
            }
            Ok(())
        })
    }
}

/// Lets what comes from the host's loopback to a published port leave by an interface.
fn open_loopback(link: &str, publish: &[Publish]) -> Result<()> {
    set(&format!("/proc/sys/net/ipv4/conf/{link}/route_localnet"), if publish.is_empty() { "0" } else { "1" })
}

/// Writes a setting of the kernel, if it has it: without IPv6 it has none of that.
fn set(path: &str, value: &str) -> Result<()> {
    match fs::write(path, value) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        written => written.with_context(|| format!("cannot write {path}")),
    }
}

/// The records of all containers that run, but for some.
fn live(without: &[&Name]) -> Result<Vec<Record>> {
    let mut records = Record::all()?;
    records.retain(|record| !without.contains(&&record.name.0) && record.is_live());
    Ok(records)
}

/// Takes away what `up` has made outside of the namespace, however far it came: links, rules, and with the last user the
/// bridge.
fn take_down(name: &Name, host: &Netlink) -> Result<()> {
    let Some(record) = Record::of(name)? else { return Record::forget(name) };
    let links = record.interfaces.iter().filter_map(|made| made.link.as_deref());
    let links = tool::all(links.map(|link| host.delete(link)));
    let rules = || -> Result<()> {
        if record.ours().is_none() {
            return Ok(());
        }
        let users = live(&[name])?.into_iter().filter(|other| other.ours().is_some()).collect::<Vec<_>>();
        if !users.is_empty() {
            return match bridge::look(host)? {
                Some(gateways) => firewall::load(&users, gateways),
                // Somebody has taken it away, and with it what led to containers.
                None => Ok(()),
            };
        }
        firewall::clear()?;
        bridge::remove(host)
    };
    // The record goes last: what fails can be tried again.
    tool::all([links, rules()])?;
    Record::forget(name)
}

/// The undo of `up`; and, if its addresses are to be given back, of all that it has taken.
pub fn remove(name: &Name, addresses: bool) -> Result<()> {
    let down = || {
        if !store::runtime_dir().exists() {
            return Ok(());
        }
        let _lock = record::lock()?;
        take_down(name, &Netlink::open()?)
    };
    tool::all([down(), if addresses { lease::release(name) } else { Ok(()) }])
}

/// What a container has.
pub fn show(name: &Name) -> Result<Vec<u8>> {
    match Record::of(name)? {
        Some(record) if record.is_live() => Ok(format!("{}\n", shown(&record)).into_bytes()),
        _ => bail!("container {name} has no network that is up"),
    }
}

/// What all containers have that run.
pub fn list() -> Result<Vec<u8>> {
    let all: Vec<_> = live(&[])?.iter().map(shown).collect();
    Ok(format!("{}\n", json!(all)).into_bytes())
}

fn shown(record: &Record) -> serde_json::Value {
    json!({
        "name": record.name,
        "interfaces": record.interfaces,
        "publish": record.publish,
        "allow": record.allow,
        "egress": record.egress.as_ref().map_or("all".to_owned(), |egress| egress.0.to_string()),
    })
}
