//! Descriptors that one process gives to another (unix(7), `SCM_RIGHTS`).

use crate::sys;
use anyhow::Result;
use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Sends descriptors along with bytes, of which there must be one at least; returns how many bytes have been sent. That
/// nobody receives them is an error: EPIPE.
pub fn send<const N: usize>(stream: &UnixStream, bytes: &[u8], fds: [BorrowedFd<'_>; N]) -> Result<usize> {
    let fds = fds.map(|fd| fd.as_raw_fd());
    let rights = [ControlMessage::ScmRights(&fds)];
    Ok(sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives at most `N` descriptors, closed by exec, and bytes; returns how many bytes. Neither is there when the stream
/// has ended.
pub fn receive<const N: usize>(stream: &UnixStream, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = cmsg_space!([RawFd; N]);
    let mut slices = [IoSliceMut::new(bytes)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let fds = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds = fds.unwrap_or_default().into_iter().map(sys::inherited).collect::<std::io::Result<_>>()?;
    Ok((message.bytes, fds))
}
