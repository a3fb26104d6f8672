//! What changes, as the kernel tells it.

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
/// A burst of changes this large is held by the kernel before it is lost.
const RECEIVE_BUFFER_BYTES: u32 = 4 << 20;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A device is new or different.
    Link(Link),
    /// A device has gone.
    LinkDeleted(Link),
    /// An address is new or different.
    Address(Address),
    /// An address has gone.
    AddressDeleted(Address),
    /// A route is new or different.
    Route(Route),
    /// A route has gone.
    RouteDeleted(Route),
    /// A neighbour is new or different.
    Neighbour(Neighbour),
    /// A neighbour has gone.
    NeighbourDeleted(Neighbour),
    /// Changes were lost: list everything again.
    Overrun,
}

/// A subscription to the changes of one network namespace.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Watch {
    /// In the network namespace of the calling thread.
    pub fn open() -> Result<Watch, NetlinkError> {
        let mut socket = Socket::new(protocols::NETLINK_ROUTE).map_err(socket_failed("open a socket"))?;
        socket.bind_auto().map_err(socket_failed("bind a socket"))?;
        // Refused beyond the system's limit: then bursts are lost earlier, and told.
        let _ = socket.set_rx_buf_sz(RECEIVE_BUFFER_BYTES);
        for group in GROUPS {
            socket.add_membership(group).map_err(socket_failed("subscribe to changes"))?;
        }
        socket.set_non_blocking(true).map_err(socket_failed("make a socket non-blocking"))?;
        Ok(Watch { socket, buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    /// In another network namespace.
    pub fn open_in(netns: &NetNs) -> Result<Watch, NetlinkError> {
        netns.enter(Watch::open).map_err(|error| NetlinkError::Socket {
            operation: "open a socket in a namespace",
            source: io::Error::other(error.to_string()),
        })?
    }

    /// Waits for changes, at most so long (forever without a limit), and
    /// returns those that are there; none after the time is up.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<Vec<Change>, NetlinkError> {
        let limit =
            limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
        match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(_) | Err(nix::Error::EINTR) => self.take_pending(),
            Err(errno) => Err(socket_failed("wait for changes")(errno.into())),
        }
    }

    /// The changes that are there, without waiting.
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
        // SAFETY: the descriptor is open as long as the socket, which self owns.
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
