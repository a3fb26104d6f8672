//! TCP and UDP echo servers in the pods of the Service.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};

use super::flow::{FlowStats, SERVER_PORT, TIMEOUT};
use super::flows::retransmitted;
use super::host::TestHost;

/// Servers in several hosts.
pub struct Servers {
    ends: Arc<AtomicBool>,
    stats: Arc<Mutex<FlowStats>>,
    /// Addresses of the TCP servers, to wake them up.
    listeners: Vec<(Arc<beeline_kernel::netns::NetNs>, SocketAddr)>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Starts servers for both protocols and families in every host.
    pub fn start(hosts: &[TestHost]) -> Servers {
        let mut servers = Servers {
            ends: Arc::default(),
            stats: Arc::default(),
            listeners: Vec::new(),
            threads: Vec::new(),
        };
        for host in hosts {
            let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, SERVER_PORT));
            let bound = host.netns.enter(|| (TcpListener::bind(any), UdpSocket::bind(any))).unwrap();
            let (tcp, udp) = (bound.0.unwrap(), bound.1.unwrap());
            listen(&tcp, Backlog::new(4096).unwrap()).unwrap();
            setsockopt(&udp, sockopt::RcvBufForce, &(4 << 20)).unwrap();
            servers.listeners.push((host.netns.clone(), SocketAddr::new(host.ips[0], SERVER_PORT)));
            let (ends, stats) = (servers.ends.clone(), servers.stats.clone());
            servers.threads.push(std::thread::spawn(move || accept(&tcp, &ends, &stats)));
            let ends = servers.ends.clone();
            servers.threads.push(std::thread::spawn(move || echo_datagrams(&udp, &ends)));
        }
        servers
    }

    /// Stops the servers and returns their results.
    pub fn stop(self) -> FlowStats {
        self.ends.store(true, Ordering::Relaxed);
        for (netns, address) in &self.listeners {
            let _ = netns.enter(|| TcpStream::connect_timeout(address, TIMEOUT));
        }
        for thread in self.threads {
            let _ = thread.join();
        }
        std::mem::take(&mut self.stats.lock().unwrap())
    }
}

fn accept(listener: &TcpListener, ends: &AtomicBool, stats: &Arc<Mutex<FlowStats>>) {
    let mut connections = Vec::new();
    while let Ok((stream, from)) = listener.accept() {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let stats = stats.clone();
        connections.push(std::thread::spawn(move || {
            let outcome = echo_stream(&stream);
            let mut stats = stats.lock().unwrap();
            stats.probes += 1;
            stats.retransmitted += retransmitted(stream.as_fd());
            if let Err(error) = outcome {
                stats.error(format!("the connection from {from} failed: {error}"));
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
    // Longer than the clients' timeout, so that clients report errors first.
    stream.set_read_timeout(Some(TIMEOUT * 2))?;
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
