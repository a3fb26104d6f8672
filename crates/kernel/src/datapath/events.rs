//! Sampled events from the ring buffer.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use aya::maps::{Map, MapData, RingBuf};
use beeline_abi::event::{EVENT_VERSION, Event};
use zerocopy::FromBytes;

use super::error::DatapathError;
use super::programs::load_failed;

/// A reader of the event ring buffer (`BPF_MAP_TYPE_RINGBUF`, Linux 5.8). A
/// record is delivered to one reader only, so only the agent should read.
pub struct Events {
    ring: RingBuf<MapData>,
    skipped: u64,
}

impl Events {
    pub(crate) fn open(path: &Path) -> Result<Events, DatapathError> {
        let object = format!("the event stream pinned at {}", path.display());
        let map = MapData::from_pin(path).map_err(|error| load_failed(&object, &error))?;
        let ring = RingBuf::try_from(Map::RingBuf(map)).map_err(|error| load_failed(&object, &error))?;
        Ok(Events { ring, skipped: 0 })
    }

    /// The next event, or none if the buffer is empty. Poll the descriptor
    /// until it is readable, then call this until it returns none.
    #[expect(clippy::should_implement_trait, reason = "none means none now: it is not the end")]
    pub fn next(&mut self) -> Option<Event> {
        while let Some(record) = self.ring.next() {
            match parse(&record) {
                Some(event) => return Some(event),
                None => self.skipped += 1,
            }
        }
        None
    }

    /// The number of records skipped because another release wrote them in
    /// another format.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

fn parse(record: &[u8]) -> Option<Event> {
    let (event, _) = Event::read_from_prefix(record).ok()?;
    (event.version == EVENT_VERSION).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn unit_records_of_other_versions_are_skipped() {
        let event = Event { version: EVENT_VERSION, length: 60, ..Event::default() };
        assert_eq!(parse(event.as_bytes()), Some(event));
        assert_eq!(parse(&[event.as_bytes(), &[0; 8]].concat()), Some(event), "padding follows a record");
        assert_eq!(parse(Event { version: EVENT_VERSION + 1, ..event }.as_bytes()), None);
        assert_eq!(parse(&event.as_bytes()[..40]), None);
    }
}
