//! The other ends: TCP and UDP echoes in the pods behind the Service.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};

use super::flows::retransmitted;
use super::place::TestPlace;
use super::{PATIENCE, SERVER_PORT, Tally};

/// Servers in several places.
pub struct Servers {
    ends: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    /// Where each TCP server listens, to wake it.
    listeners: Vec<(Arc<beeline_kernel::netns::NetNs>, SocketAddr)>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Listens in every place on both protocols and families.
    pub fn start(places: &[TestPlace]) -> Servers {
        let mut servers = Servers {
            ends: Arc::default(),
            tally: Arc::default(),
            listeners: Vec::new(),
            threads: Vec::new(),
        };
        for place in places {
            let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, SERVER_PORT));
            let bound = place.netns.enter(|| (TcpListener::bind(any), UdpSocket::bind(any))).unwrap();
            let (tcp, udp) = (bound.0.unwrap(), bound.1.unwrap());
            listen(&tcp, Backlog::new(4096).unwrap()).unwrap();
            setsockopt(&udp, sockopt::RcvBufForce, &(4 << 20)).unwrap();
            servers.listeners.push((place.netns.clone(), SocketAddr::new(place.ips[0], SERVER_PORT)));
            let (ends, tally) = (servers.ends.clone(), servers.tally.clone());
            servers.threads.push(std::thread::spawn(move || accept(&tcp, &ends, &tally)));
            let ends = servers.ends.clone();
            servers.threads.push(std::thread::spawn(move || echo_datagrams(&udp, &ends)));
        }
        servers
    }

    /// Ends them and tells what they saw.
    pub fn stop(self) -> Tally {
        self.ends.store(true, Ordering::Relaxed);
        for (netns, address) in &self.listeners {
            let _ = netns.enter(|| TcpStream::connect_timeout(address, PATIENCE));
        }
        for thread in self.threads {
            let _ = thread.join();
        }
        std::mem::take(&mut self.tally.lock().unwrap())
    }
}

fn accept(listener: &TcpListener, ends: &AtomicBool, tally: &Arc<Mutex<Tally>>) {
    let mut connections = Vec::new();
    while let Ok((stream, from)) = listener.accept() {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let tally = tally.clone();
        connections.push(std::thread::spawn(move || {
            let outcome = echo_stream(&stream);
            let mut tally = tally.lock().unwrap();
            tally.probes += 1;
            tally.retransmitted += retransmitted(stream.as_fd());
            if let Err(error) = outcome {
                tally.trouble(format!("the connection from {from} broke: {error}"));
            }
        }));
        connections.retain(|connection| !connection.is_finished());
    }
    for connection in connections {
        let _ = connection.join();
    }
}

fn echo_stream(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    // Longer than clients wait: they tell first.
    stream.set_read_timeout(Some(PATIENCE * 2))?;
    let mut buffer = vec![0; 65536];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

fn echo_datagrams(socket: &UdpSocket, ends: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buffer = vec![0; 65536];
    while !ends.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}
