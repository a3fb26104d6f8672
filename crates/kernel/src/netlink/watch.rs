//! Notifications of changes to links, addresses, routes and neighbours
//! (rtnetlink multicast groups, as in `ip monitor`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use netlink_sys::{Socket, protocols};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::message::{Received, received};
use super::{Address, DATAGRAM_BYTES_MAX, Link, Neighbour, NetlinkError, Route};
use super::{address, link, neighbour, receive, route, socket_failed};
use crate::netns::NetNs;

/// `RTNLGRP_*` of linux/rtnetlink.h: link, neighbour, and per family address and route.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];
/// Size of the receive buffer. The kernel drops notifications beyond it.
const RECEIVE_BUFFER_BYTES: u32 = 4 << 20;

/// A change notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A device was added or changed.
    Link(Link),
    /// A device was deleted.
    LinkDeleted(Link),
    /// An address was added or changed.
    Address(Address),
    /// An address was deleted.
    AddressDeleted(Address),
    /// A route was added or changed.
    Route(Route),
    /// A route was deleted.
    RouteDeleted(Route),
    /// A neighbour entry was added or changed.
    Neighbour(Neighbour),
    /// A neighbour entry was deleted.
    NeighbourDeleted(Neighbour),
    /// The receive buffer overran (`ENOBUFS`) and notifications were lost:
    /// list all objects again.
    Overrun,
}

/// A subscription to the changes in one network namespace.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Watch {
    /// Subscribes in the network namespace of the calling thread.
    pub fn open() -> Result<Watch, NetlinkError> {
        let mut socket = Socket::new(protocols::NETLINK_ROUTE).map_err(socket_failed("open a socket"))?;
        socket.bind_auto().map_err(socket_failed("bind a socket"))?;
        // Best effort: with a smaller buffer an overrun comes earlier and is reported.
        let _ = socket.set_rx_buf_sz(RECEIVE_BUFFER_BYTES);
        for group in GROUPS {
            socket.add_membership(group).map_err(socket_failed("subscribe to changes"))?;
        }
        socket.set_non_blocking(true).map_err(socket_failed("make a socket non-blocking"))?;
        Ok(Watch { socket, buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    /// Subscribes in another network namespace.
    pub fn open_in(netns: &NetNs) -> Result<Watch, NetlinkError> {
        netns.enter(Watch::open).map_err(|error| NetlinkError::Socket {
            operation: "open a socket in a namespace",
            source: io::Error::other(error.to_string()),
        })?
    }

    /// Waits until changes are pending and returns them. Returns an empty list
    /// after `limit`; without a limit it waits forever.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<Vec<Change>, NetlinkError> {
        let limit =
            limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
        match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(_) | Err(nix::Error::EINTR) => self.take_pending(),
            Err(errno) => Err(socket_failed("wait for changes")(errno.into())),
        }
    }

    /// Returns the pending changes without waiting.
    pub fn take_pending(&mut self) -> Result<Vec<Change>, NetlinkError> {
        let mut changes = Vec::new();
        loop {
            match receive(&self.socket, &mut self.buffer) {
                Ok(length) => changes.extend(received(&self.buffer[..length]).filter_map(change)),
                Err(error) => match error.errno() {
                    Some(libc::EAGAIN) => return Ok(changes),
                    Some(libc::ENOBUFS) => changes.push(Change::Overrun),
                    _ => return Err(error),
                },
            }
        }
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: self owns the socket, so the descriptor stays open while it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

fn change(message: Received<'_>) -> Option<Change> {
    let payload = message.payload;
    match message.kind {
        libc::RTM_NEWLINK => link::parse(payload).map(Change::Link),
        libc::RTM_DELLINK => link::parse(payload).map(Change::LinkDeleted),
        libc::RTM_NEWADDR => address::parse(payload).map(Change::Address),
        libc::RTM_DELADDR => address::parse(payload).map(Change::AddressDeleted),
        libc::RTM_NEWROUTE => route::parse(payload).map(Change::Route),
        libc::RTM_DELROUTE => route::parse(payload).map(Change::RouteDeleted),
        libc::RTM_NEWNEIGH => neighbour::parse(payload).map(Change::Neighbour),
        libc::RTM_DELNEIGH => neighbour::parse(payload).map(Change::NeighbourDeleted),
        _ => None,
    }
}
