//! Relays drop events: read from the kernel's ring buffer, kept for a while,
//! and sent to all subscribers.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use beeline_abi::DropReason;
use beeline_abi::counter::hook;
use beeline_abi::event::{EVENT_VERSION, Event, kind};
use beeline_api::DropRecord;
use tokio::sync::broadcast;

/// Recent drop events kept for new subscribers; the oldest is discarded.
const RECENT_MAX: usize = 512;
/// Events queued per subscriber; a slower subscriber misses events.
const BEHIND_MAX: usize = 4_096;

/// Keeps recent drop events and relays new ones.
#[derive(Debug)]
pub struct Drops {
    recent: Mutex<VecDeque<Arc<DropRecord>>>,
    sender: broadcast::Sender<Arc<DropRecord>>,
}

/// What a subscriber receives.
#[derive(Debug)]
pub struct Subscription {
    /// Recent records, oldest first.
    pub recent: VecDeque<Arc<DropRecord>>,
    receiver: broadcast::Receiver<Arc<DropRecord>>,
}

impl Drops {
    /// An empty relay.
    pub fn new() -> Drops {
        Drops { recent: Mutex::default(), sender: broadcast::channel(BEHIND_MAX).0 }
    }

    /// Stores the record and sends it to the subscribers.
    pub fn push(&self, record: DropRecord) {
        let record = Arc::new(record);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(record.clone());
        // Sending fails only if there is no subscriber.
        let _ = self.sender.send(record);
    }

    /// The recent records and a channel for new ones.
    pub fn subscribe(&self) -> Subscription {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        Subscription { receiver: self.sender.subscribe(), recent: recent.clone() }
    }
}

impl Default for Drops {
    fn default() -> Drops {
        Drops::new()
    }
}

impl Subscription {
    /// The next record. A slow subscriber misses records, which shows as a gap
    /// in `sequence`.
    pub async fn next(&mut self) -> Option<Arc<DropRecord>> {
        loop {
            match self.receiver.recv().await {
                Ok(record) => return Some(record),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Converts a drop event. `None` if the event is of another kind or version.
pub fn record(event: &Event, monotonic_ns: u64, now: SystemTime) -> Option<DropRecord> {
    if event.version != EVENT_VERSION || event.kind != kind::DROP {
        return None;
    }
    let unix_ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let age_ms = monotonic_ns.saturating_sub(event.time_ns) / 1_000_000;
    let reason = DropReason::from_number(event.reason);
    Some(DropRecord {
        time_unix_ms: unix_ms.saturating_sub(age_ms),
        hook: hook::name(event.hook).to_owned(),
        reason: reason.map_or_else(|| format!("unknown_{}", event.reason), |reason| reason.name().to_owned()),
        ifindex: event.ifindex,
        ethertype: u16::from_be(event.ethertype),
        proto: event.proto,
        tcp_flags: event.tcp_flags,
        length: event.length,
        src: IpAddr::from(event.src),
        dst: IpAddr::from(event.dst),
        sport: event.sport.get(),
        dport: event.dport.get(),
        src_after: IpAddr::from(event.src_after),
        dst_after: IpAddr::from(event.dst_after),
        sport_after: event.sport_after.get(),
        dport_after: event.dport_after.get(),
        service: event.service,
        cpu: event.cpu,
        sequence: event.sequence,
        lost: event.lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn event() -> Event {
        Event {
            version: EVENT_VERSION,
            kind: kind::DROP,
            reason: DropReason::NoBackend as u8,
            time_ns: 3_000_000_000,
            ..Event::default()
        }
    }

    #[test]
    fn unit_a_drop_event_becomes_a_record_with_wall_clock_time() {
        let record = record(&event(), 5_000_000_000, UNIX_EPOCH + Duration::from_secs(100)).unwrap();
        assert_eq!((record.reason.as_str(), record.hook.as_str()), ("no_backend", "from_pod"));
        assert_eq!(record.time_unix_ms, 98_000);
    }

    #[test]
    fn unit_other_kinds_and_versions_are_skipped() {
        assert_eq!(record(&Event { kind: kind::FLOW_NEW, ..event() }, 0, UNIX_EPOCH), None);
        assert_eq!(record(&Event { version: 9, ..event() }, 0, UNIX_EPOCH), None);
    }

    #[test]
    fn unit_memory_is_bounded_and_followers_get_new_records() {
        let drops = Drops::new();
        let base = record(&event(), 0, UNIX_EPOCH).unwrap();
        for sequence in 0..RECENT_MAX as u64 + 5 {
            drops.push(DropRecord { sequence, ..base.clone() });
        }
        let mut subscription = drops.subscribe();
        assert_eq!(subscription.recent.len(), RECENT_MAX);
        assert_eq!(subscription.recent[0].sequence, 5);
        drops.push(DropRecord { sequence: 9_999, ..base });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(subscription.next()).unwrap().sequence, 9_999);
    }
}
