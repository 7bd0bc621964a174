//! The words of a network: what `sbx.net` has, and how it is written on the command line.

use crate::address::{Address, Mac, number};
use sbx::Name;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The source that is a bridge of ours.
pub const DEFAULT: &str = "default";

/// The longest name of an interface in bytes (`IFNAMSIZ` less its NUL, netdevice(7)).
pub const MAX_LINK: usize = 15;

/// `sbx.net` of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The interfaces beside loopback.
    pub interfaces: Vec<Interface>,
    /// The ports of the host that lead inside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// The containers that may connect to this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Text<Name>>,
    /// Where it may connect to; anywhere without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Text<Egress>>,
}

/// One interface of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Its name inside.
    pub name: String,
    /// What it is.
    #[serde(default, skip_serializing_if = "Mode::is_bridge")]
    pub mode: Mode,
    /// The bridge or parent on the host, or [`DEFAULT`].
    pub source: String,
    /// Its hardware address; without it one that is derived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Text<Mac>>,
    /// Addresses with the length of their prefix; without them on our bridge it has a lease.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Text<Address>>,
    /// Routes beside those to its own networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// The largest packet in bytes; without it that of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// How an interface is connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By a pair of virtual interfaces (veth(4)).
    #[default]
    Bridge,
    /// By an address of its own on a parent of the host.
    Macvlan,
    /// By the address of a parent.
    Ipvlan,
}

impl Mode {
    fn is_bridge(&self) -> bool {
        *self == Self::Bridge
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bridge" | "veth" => Ok(Self::Bridge),
            "macvlan" => Ok(Self::Macvlan),
            "ipvlan" => Ok(Self::Ipvlan),
            _ => Err(format!("bad mode {text:?}: bridge, macvlan or ipvlan")),
        }
    }
}

/// A route to a network by a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The network.
    pub to: Text<Address>,
    /// The gateway.
    pub via: IpAddr,
}

/// A port of the host that leads inside: `[IP:]HOST:PORT[/udp]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The host's address, if not all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The host's port.
    pub host: u16,
    /// The container's.
    pub port: u16,
    /// Of which protocol.
    #[serde(default, skip_serializing_if = "Protocol::is_tcp")]
    pub protocol: Protocol,
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// tcp(7).
    #[default]
    Tcp,
    /// udp(7).
    Udp,
}

impl Protocol {
    fn is_tcp(&self) -> bool {
        *self == Self::Tcp
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Publish {
    /// Whether both take one port of one address of the host.
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_one_address = self.address.is_none() || other.address.is_none() || self.address == other.address;
        (self.host, self.protocol) == (other.host, other.protocol) && is_one_address
    }

    /// The host's port, as it is said: `80/tcp`.
    pub fn port_of_host(&self) -> String {
        format!("{}/{}", self.host, self.protocol.as_str())
    }
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("bad port {text:?}: [IP:]HOST:PORT[/udp]");
        let (ports, protocol) = match text.rsplit_once('/') {
            None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(bad()),
        };
        let (rest, port) = ports.rsplit_once(':').ok_or_else(bad)?;
        let (address, host) = match rest.rsplit_once(':') {
            None => (None, rest),
            Some((address, host)) => {
                // An IPv6 address has colons of its own.
                let inner = address.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
                let address = match inner {
                    Some(inner) => inner.parse().map(IpAddr::V6).map_err(|_| bad())?,
                    None => address.parse().map(IpAddr::V4).map_err(|_| bad())?,
                };
                (Some(address).filter(|address| !address.is_unspecified()), host)
            }
        };
        let number = |text: &str| number(text, 1..=u16::MAX.into()).and_then(|port| u16::try_from(port).ok());
        Ok(Self { address, host: number(host).ok_or_else(bad)?, port: number(port).ok_or_else(bad)?, protocol })
    }
}

/// Where a container may connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Egress {
    /// Nowhere: it only answers.
    None,
    /// To name servers.
    Dns,
    /// To these networks.
    Networks(Vec<Address>),
    /// Anywhere.
    All,
}

impl FromStr for Egress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "dns" => Ok(Self::Dns),
            "all" => Ok(Self::All),
            _ => text
                .split(',')
                .map(|cidr| Address::network(cidr, Address::bits))
                .collect::<Result<_, _>>()
                .map(Self::Networks),
        }
        .map_err(|error: String| format!("bad egress {text:?}: none, dns, all or CIDR,...: {error}"))
    }
}

impl Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Dns => f.write_str("dns"),
            Self::All => f.write_str("all"),
            Self::Networks(networks) => {
                f.write_str(&networks.iter().map(Address::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// What `--network` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// Loopback alone.
    None,
    /// The host's network.
    Host,
    /// The network namespace at a path.
    Namespace(PathBuf),
    /// That of another container.
    Container(Name),
    /// An interface, which has no name yet.
    Interface(Interface),
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("bad network {text:?}: {why}");
        match text.split_once('=') {
            _ if text == "none" => return Ok(Self::None),
            _ if text == "host" => return Ok(Self::Host),
            Some(("netns", path)) if path.starts_with('/') => return Ok(Self::Namespace(path.into())),
            Some(("netns", _)) => return Err(bad("netns= takes an absolute path")),
            Some(("container", name)) => {
                return name.parse().map(Self::Container).map_err(|error| bad(&format!("{error}")));
            }
            _ => {}
        }
        let mut dhcp = false;
        let mut mode = None;
        let mut source = None;
        let mut interface = Interface {
            name: String::new(),
            mode: Mode::Bridge,
            source: DEFAULT.into(),
            mac: None,
            addresses: Vec::new(),
            routes: Vec::new(),
            mtu: None,
        };
        let once =
            |is_first: bool, key: &str| if is_first { Ok(()) } else { Err(bad(&format!("{key} stands there twice"))) };
        for part in text.split(',') {
            let (key, value) = part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value)));
            match (key, value) {
                ("dhcp", None) => {
                    once(!dhcp, key)?;
                    dhcp = true;
                }
                ("source", Some(value)) => {
                    once(source.replace(value).is_none(), key)?;
                    interface.source = link_name(value).map_err(|why| bad(&why))?.to_owned();
                }
                ("mode", Some(value)) => {
                    once(mode.replace(value).is_none(), key)?;
                    interface.mode = value.parse().map_err(|why: String| bad(&why))?;
                }
                ("mac", Some(value)) => {
                    let mac = value.parse().map_err(|why: String| bad(&why))?;
                    once(interface.mac.replace(Text(mac)).is_none(), key)?;
                }
                ("mtu", Some(value)) => {
                    let mtu = number(value, 68..=65_535).ok_or_else(|| bad("an mtu is of 68 to 65535 bytes"))?;
                    once(interface.mtu.replace(mtu).is_none(), key)?;
                }
                ("address", Some(value)) => {
                    interface.addresses.push(Text(value.parse().map_err(|why: String| bad(&why))?));
                }
                ("route", Some(value)) => {
                    let (to, via) = value.split_once('%').ok_or_else(|| bad("a route is NET[/PREFIX]%GATEWAY"))?;
                    let to = Address::network(to, Address::usual).map_err(|why| bad(&why))?;
                    let via: IpAddr = via.parse().map_err(|_| bad(&format!("bad gateway {via:?}")))?;
                    if via.is_ipv6() != to.ip.is_ipv6() {
                        return Err(bad("a gateway is of another family than its route"));
                    }
                    interface.routes.push(Route { to: Text(to), via });
                }
                _ => return Err(bad(&format!("unknown key {part:?}"))),
            }
        }
        if dhcp && !(interface.addresses.is_empty() && interface.routes.is_empty()) {
            return Err(bad("dhcp goes with neither address nor route"));
        }
        if dhcp && interface.source != DEFAULT {
            return Err(bad(NO_CLIENT));
        }
        if source.is_none() && interface.mode != Mode::Bridge {
            return Err(bad("source= is missing: the interface of the host to be its parent"));
        }
        interface.check().map_err(|why| bad(&why))?;
        Ok(Self::Interface(interface))
    }
}

/// Why a container cannot ask for its address itself.
const NO_CLIENT: &str =
    "dhcp is a lease of sbx0: a client inside has not the privileges to ask another network for one; give address=";

impl Interface {
    /// Whether it is on our own network.
    pub fn is_ours(&self) -> bool {
        self.mode == Mode::Bridge && self.source == DEFAULT
    }

    /// Whether its parts go together.
    pub fn check(&self) -> Result<(), String> {
        if self.addresses.is_empty() && !self.routes.is_empty() {
            return Err("route goes with address".into());
        }
        if self.mode != Mode::Bridge && self.source == DEFAULT {
            return Err("source=default is a bridge, no parent".into());
        }
        if self.mode == Mode::Ipvlan && self.mac.is_some() {
            return Err("an ipvlan has the mac of its parent".into());
        }
        link_name(&self.source).map(drop)
    }
}

/// A text that can be the name of an interface (`dev_valid_name` of the kernel), and a part of a path.
pub fn link_name(text: &str) -> Result<&str, String> {
    let is_one = !text.is_empty()
        && text.len() <= MAX_LINK
        && ![".", "..", "all"].contains(&text)
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    if is_one { Ok(text) } else { Err(format!("bad name of an interface: {text:?}")) }
}

/// What is written in a document as on the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String", bound = "T: Clone + Display + FromStr<Err: Display>")]
pub struct Text<T>(pub T);

impl<T: Display> From<Text<T>> for String {
    fn from(text: Text<T>) -> Self {
        text.0.to_string()
    }
}

impl<T: FromStr<Err: Display>> TryFrom<String> for Text<T> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests;
