//! The kernel's routing socket (rtnetlink(7)): one request, one answer.

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// A socket in the network namespace in which it was opened.
pub struct Route(Socket);

impl Route {
    /// Opens a socket in the current network namespace.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
        socket.bind_auto().context("cannot bind a netlink socket")?;
        socket.connect(&SocketAddr::new(0, 0)).context("cannot connect a netlink socket")?;
        Ok(Self(socket))
    }

    /// Sets an interface up.
    pub fn set_up(&self, index: u32) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(link))
    }

    /// Sends a request and waits until the kernel has carried it out.
    fn request(&self, message: RouteNetlinkMessage) -> Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0).context("cannot send to the kernel")?;
        let (answer, _) = self.0.recv_from_full().context("cannot hear from the kernel")?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).context("the kernel's answer")?;
        match answer.payload {
            // An acknowledgement is an error without a code.
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io().into()),
            NetlinkPayload::Error(_) => Ok(()),
            other => bail!("the kernel gave another answer than asked for: {other:?}"),
        }
    }
}
