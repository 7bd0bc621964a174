//! The kernel's routing socket (rtnetlink(7)): links, addresses, routes and neighbours. One request, one answer.

use crate::address::{Address, Mac};
use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoMacVlan, InfoPortData, InfoPortKind, InfoVeth,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

/// A socket in the network namespace in which it was opened: it stays there, wherever the process goes.
pub struct Netlink(Socket);

/// An interface that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Whether it is a bridge.
    pub is_bridge: bool,
    /// Its largest packet in bytes.
    pub mtu: u32,
}

/// One end of a pair of interfaces, or an interface with a parent.
#[derive(Debug)]
pub struct End<'a> {
    pub name: &'a str,
    pub mac: Option<Mac>,
    pub mtu: u32,
}

/// A route to leave by an interface.
#[derive(Debug, Default)]
pub struct Hop {
    /// The gateway, which need not be on a network of the interface.
    pub via: Option<IpAddr>,
    /// The address of one's own that what is sent comes from.
    pub source: Option<IpAddr>,
}

impl Netlink {
    /// Opens a socket in the current network namespace.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
        socket.bind_auto().context("cannot bind a netlink socket")?;
        socket.connect(&SocketAddr::new(0, 0)).context("cannot connect a netlink socket")?;
        Ok(Self(socket))
    }

    /// The interface of a name, if there is one.
    pub fn link(&self, name: &str) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answers = match self.talk(RouteNetlinkMessage::GetLink(message), 0) {
            Err(error) if is(&error, Errno::ENODEV) => return Ok(None),
            answers => answers.with_context(|| format!("cannot look at {name}"))?,
        };
        let found = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        Ok(found.map(|message| {
            let mut link = Link { index: message.header.index, is_bridge: false, mtu: 1500 };
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                    LinkAttribute::LinkInfo(info) => {
                        link.is_bridge = info.contains(&LinkInfo::Kind(InfoKind::Bridge));
                    }
                    _ => {}
                }
            }
            link
        }))
    }

    /// Makes a bridge, which is up.
    pub fn add_bridge(&self, name: &str) -> Result<()> {
        let mut message = new_link(&End { name, mac: None, mtu: 0 }, InfoKind::Bridge, None);
        (message.header.flags, message.header.change_mask) = (LinkFlags::Up, LinkFlags::Up);
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes a pair of interfaces; the second one in another network namespace.
    pub fn add_pair(&self, here: &End<'_>, there: &End<'_>, namespace: &OwnedFd) -> Result<()> {
        let mut peer = new_link(there, InfoKind::Veth, None);
        peer.attributes.retain(|attribute| !matches!(attribute, LinkAttribute::LinkInfo(_)));
        peer.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        let message = new_link(here, InfoKind::Veth, Some(InfoData::Veth(InfoVeth::Peer(peer))));
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes an interface in another network namespace that has a parent here: a macvlan, or an ipvlan.
    pub fn add_child(&self, end: &End<'_>, parent: u32, is_macvlan: bool, namespace: &OwnedFd) -> Result<()> {
        let mode = InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)]);
        let (kind, data) = if is_macvlan { (InfoKind::MacVlan, Some(mode)) } else { (InfoKind::IpVlan, None) };
        let mut message = new_link(end, kind, data);
        message.attributes.push(LinkAttribute::Link(parent));
        message.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes an interface a port of a bridge, which has nothing to do with its other isolated ports (Linux 4.18).
    pub fn isolate(&self, index: u32, bridge: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Controller(bridge));
        self.change(RouteNetlinkMessage::SetLink(message), 0)?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)])),
        ]));
        self.change(RouteNetlinkMessage::NewLink(message), 0)
    }

    /// Sets an interface up.
    pub fn set_up(&self, index: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        (message.header.flags, message.header.change_mask) = (LinkFlags::Up, LinkFlags::Up);
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Takes an interface away, and with it its other end, if any. There may be none.
    pub fn delete(&self, name: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.change(RouteNetlinkMessage::DelLink(message), 0) {
            Err(error) if is(&error, Errno::ENODEV) => Ok(()),
            deleted => deleted.with_context(|| format!("cannot remove {name}")),
        }
    }

    /// Gives an interface an address, at once and for good. One of a network that is not `near` leads to no neighbours.
    pub fn add_address(&self, index: u32, address: &Address, near: bool) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.ip);
        message.header.prefix_len = address.prefix;
        message.header.index = index;
        let flags = if near { AddressFlags::empty() } else { AddressFlags::Noprefixroute };
        message.attributes = vec![
            AddressAttribute::Local(address.ip),
            AddressAttribute::Address(address.ip),
            AddressAttribute::Flags(flags | AddressFlags::Nodad),
        ];
        message.attributes.extend(address.broadcast().map(AddressAttribute::Broadcast));
        self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
            .with_context(|| format!("cannot add the address {address}"))
    }

    /// The addresses of an interface.
    pub fn addresses(&self, index: u32) -> Result<Vec<Address>> {
        let answers = self.talk(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
        let addresses = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                let ip = message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(ip) => Some(*ip),
                    _ => None,
                })?;
                Some(Address::new(ip, message.header.prefix_len))
            }
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// Has what goes to a network leave by an interface.
    pub fn add_route(&self, index: u32, to: Address, hop: &Hop) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(to.ip);
        message.header.destination_prefix_length = to.prefix;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope = if hop.via.is_none() { RouteScope::Link } else { RouteScope::Universe };
        message.attributes = vec![RouteAttribute::Destination(route_address(to.ip)), RouteAttribute::Oif(index)];
        if let Some(via) = hop.via {
            message.header.flags = RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Gateway(route_address(via)));
        }
        message.attributes.extend(hop.source.map(|source| RouteAttribute::PrefSource(route_address(source))));
        self.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
            .with_context(|| format!("cannot add a route to {to}"))
    }

    /// The networks that are not everything, to which there are routes.
    pub fn routes(&self) -> Result<Vec<Address>> {
        let answers = self.talk(RouteNetlinkMessage::GetRoute(RouteMessage::default()), NLM_F_DUMP)?;
        let routes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) if message.header.kind == RouteType::Unicast => {
                let to = message.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
                    RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
                    _ => None,
                })?;
                Some(Address::new(to, message.header.destination_prefix_length))
            }
            _ => None,
        });
        Ok(routes.collect())
    }

    /// Says who has an address, so that nobody is asked, and nobody believed.
    pub fn add_neighbour(&self, index: u32, ip: IpAddr, mac: Mac) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(ip);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes =
            vec![NeighbourAttribute::Destination(ip.into()), NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .with_context(|| format!("cannot say who has {ip}"))
    }

    /// Sends a request and waits until the kernel has carried it out.
    fn change(&self, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.talk(message, flags | NLM_F_ACK).map(drop)
    }

    /// Sends a request; what the kernel answers. Its last word is an acknowledgement, the end of a dump, or the one
    /// answer.
    fn talk(&self, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0).context("cannot send to the kernel")?;
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.0.recv_from_full().context("cannot hear from the kernel")?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).context("the kernel's answer")?;
                // Messages begin at multiples of four (netlink(7)).
                let length = (answer.header.length as usize).next_multiple_of(4);
                rest = rest.get(length.max(1)..).unwrap_or_default();
                match answer.payload {
                    NetlinkPayload::Error(ErrorMessage { code: None, .. }) | NetlinkPayload::Done(_) => {
                        return Ok(answers);
                    }
                    NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    other => bail!("the kernel gave another answer than asked for: {other:?}"),
                }
            }
            if flags & (NLM_F_ACK | NLM_F_DUMP) == 0 {
                return Ok(answers);
            }
        }
    }
}

/// Whether the kernel refused with this number.
pub fn is(error: &anyhow::Error, number: Errno) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.and_then(std::io::Error::raw_os_error) == Some(number as i32)
}

fn new_link(end: &End<'_>, kind: InfoKind, data: Option<InfoData>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(end.name.to_owned()));
    message.attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    message.attributes.extend(Some(LinkAttribute::Mtu(end.mtu)).filter(|_| end.mtu != 0));
    let mut info = vec![LinkInfo::Kind(kind)];
    info.extend(data.map(LinkInfo::Data));
    message.attributes.push(LinkAttribute::LinkInfo(info));
    message
}

const fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

const fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}
