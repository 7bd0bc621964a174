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

/// What `-N` asks for.
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn interface(text: &str) -> Interface {
        match text.parse() {
            Ok(Spec::Interface(interface)) => interface,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn error(text: &str) -> String {
        text.parse::<Spec>().expect_err(text)
    }

    #[test]
    fn what_the_old_tools_took_is_taken() {
        for text in ["dhcp,source=default", "source=default", "dhcp"] {
            assert_eq!(json!(interface(text)), json!({ "name": "", "source": "default" }), "{text}");
        }
        let text =
            "address=192.168.122.1/24%192.168.122.255,route=192.168.122.255/24%192.168.1.1,mac=02:00:00:0a:Bb:01";
        assert_eq!(
            json!(interface(text)),
            json!({
                "name": "", "source": "default", "mac": "02:00:00:0a:bb:01",
                "addresses": ["192.168.122.1/24%192.168.122.255"],
                "routes": [{ "to": "192.168.122.0/24", "via": "192.168.1.1" }],
            })
        );
        // 24 bits of IPv4 are a network, 64 of IPv6.
        let text = "source=br0,mtu=1400,address=10.0.0.9,address=2001:212::204:2,route=::/0%2001:212::1";
        let expected = json!(["10.0.0.9/24", "2001:212::204:2/64"]);
        assert_eq!(json!(interface(text))["addresses"], expected);
    }

    #[test]
    fn other_ways_to_a_network_are_taken() {
        assert_eq!("none".parse(), Ok(Spec::None));
        assert_eq!("host".parse(), Ok(Spec::Host));
        assert_eq!("netns=/run/netns/a,b".parse(), Ok(Spec::Namespace("/run/netns/a,b".into())));
        assert_eq!("container=web".parse(), Ok(Spec::Container("web".parse().expect("a name"))));
        let text = "mode=macvlan,source=eth0,address=10.0.0.9/8";
        assert_eq!(interface(text).mode, Mode::Macvlan);
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_its_reason() {
        for (text, why) in [
            ("dhcp,address=10.0.0.1", "dhcp goes with neither"),
            ("address=10.0.0.1,route=10.1.0.0%10.0.0.2,dhcp", "dhcp goes with neither"),
            ("dhcp,dhcp", "dhcp stands there twice"),
            ("source=a,source=a", "source stands there twice"),
            ("mtu=100,mtu=100", "mtu stands there twice"),
            ("route=10.0.0.0/8%10.0.0.1", "route goes with address"),
            ("address=10.0.0.1,route=10.0.0.0/8", "a route is NET[/PREFIX]%GATEWAY"),
            ("address=10.0.0.1,route=10.0.0.0/8%", "bad gateway"),
            ("address=10.0.0.1,route=10.0.0.0/8%::1", "another family"),
            ("address=10.0.0.256", "bad address"),
            ("address=10.0.0.1/33", "bad address"),
            ("address=10.0.0.1/+8", "bad address"),
            ("address=::1/129", "bad address"),
            ("address=::1/64%10.0.0.255", "no broadcast"),
            ("address=10.0.0.1%x", "bad broadcast address"),
            ("mac=ff:ff:ff:ff:ff:ff", "address of a group"),
            ("mac=01:00:00:00:00:01", "address of a group"),
            ("mac=00:00:00:00:00:00", "six bytes"),
            ("mac=02:00:00:00:00", "six bytes"),
            ("mac=2:0:0:0:0:1", "six bytes"),
            ("mtu=67", "an mtu is"),
            ("", "unknown key"),
            ("dhcp=yes", "unknown key"),
            ("source", "unknown key"),
            ("color=red", "unknown key"),
            ("dhcp,", "unknown key"),
            ("source=", "bad name of an interface"),
            ("source=a/b", "bad name of an interface"),
            ("source=..", "bad name of an interface"),
            ("source=0123456789abcdef", "bad name of an interface"),
            ("source=br0,dhcp", "has not the privileges"),
            ("mode=tap", "bad mode"),
            ("mode=macvlan", "source= is missing"),
            ("mode=macvlan,source=default", "is a bridge, no parent"),
            ("mode=ipvlan,source=eth0,mac=02:00:00:00:00:01", "the mac of its parent"),
            ("netns=a", "an absolute path"),
            ("container=", "bad container name"),
        ] {
            let error = error(text);
            assert!(error.starts_with("bad network ") && error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_published_port_is_two_numbers_perhaps_an_address_and_a_protocol() {
        let port = |text: &str| text.parse::<Publish>().map(|publish| json!(publish));
        assert_eq!(port("8080:80"), Ok(json!({ "host": 8080, "port": 80 })));
        assert_eq!(port("0.0.0.0:8080:80/tcp"), Ok(json!({ "host": 8080, "port": 80 })));
        let expected = json!({ "address": "127.0.0.1", "host": 53, "port": 5353, "protocol": "udp" });
        assert_eq!(port("127.0.0.1:53:5353/udp"), Ok(expected));
        assert_eq!(port("[::1]:8080:80"), Ok(json!({ "address": "::1", "host": 8080, "port": 80 })));
        for bad in [
            "",
            "80",
            "80:",
            ":80",
            "0:80",
            "80:0",
            "80:65536",
            "80:80/sctp",
            "a:80:80",
            "::1:80:80",
            "[1.2.3.4]:1:1",
            "80:80/udp/tcp",
        ] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn egress_is_a_word_or_networks() {
        let networks = "10.0.0.0/8,192.0.2.1/32,2001:db8::/32";
        assert_eq!(
            "10.1.2.3/8,192.0.2.1,2001:db8::/32".parse::<Egress>().map(|e| e.to_string()),
            Ok(networks.to_owned())
        );
        for word in ["none", "dns", "all"] {
            assert_eq!(word.parse::<Egress>().map(|egress| egress.to_string()), Ok(word.to_owned()));
        }
        for bad in ["", "some", "10.0.0.0/8,", "10.0.0.0/33"] {
            assert!(bad.parse::<Egress>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "((dhcp|source=|mode=|mac=|mtu=|address=|route=|[0-9./:%,a-f]{0,9}),?){0,6}") {
            let _ = (text.parse::<Spec>(), text.parse::<Publish>(), text.parse::<Egress>());
        }

        #[test]
        fn what_is_read_is_what_was_written(
            v4: u32, v6: u128, prefix in 0u8..=32, long in 0u8..=128, mac: [u8; 6], ports: (u16, u16), mtu in 68u32..9000,
        ) {
            let mac = Mac([mac[0] & 0xfe | 2, mac[1], mac[2], mac[3], mac[4], mac[5]]);
            let addresses = [Address::new(Ipv4Addr::from_bits(v4).into(), prefix), Address::new(Ipv6Addr::from_bits(v6).into(), long)];
            let text = format!("source=br0,mac={mac},mtu={mtu},address={},address={}", addresses[0], addresses[1]);
            let read = interface(&text);
            prop_assert_eq!(&read.mac, &Some(Text(mac)));
            prop_assert_eq!(&read.addresses, &addresses.map(Text));
            let again: Interface = serde_json::from_value(json!(read)).expect("an interface");
            prop_assert_eq!(again, read);
            let publish = Publish { address: None, host: ports.0.max(1), port: ports.1.max(1), protocol: Protocol::Udp };
            prop_assert_eq!(format!("{}:{}/udp", publish.host, publish.port).parse(), Ok(publish));
        }
    }
}
