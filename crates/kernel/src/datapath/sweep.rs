//! Starts the timer in the kernel that removes expired connections.

use std::io;
use std::thread;
use std::time::Duration;

use super::error::{DatapathError, failed};

/// Number of attempts, and the pause between them.
const TRIES: usize = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// Starts the timer with `run`, which returns 0 or a negative errno.
///
/// Linux 6.18 allocates the timer without waiting for a lock
/// (`kmalloc_nolock`), which can fail with `ENOMEM` although memory is free.
/// That error is temporary and retried for one second; any other is returned.
pub(crate) fn start(run: impl Fn() -> Result<i32, DatapathError>) -> Result<(), DatapathError> {
    let mut answer = run()?;
    for _ in 1..TRIES {
        if answer != -libc::ENOMEM {
            break;
        }
        thread::sleep(PAUSE);
        answer = run()?;
    }
    if answer == 0 {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(answer.saturating_neg());
    Err(failed("start", "the sweep of expired connections")(error))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use beeline_abi::conntrack::SweepValue;
    use beeline_abi::maps::programs;

    use super::super::testing::TestLayouts;
    use super::super::{Datapath, EMBEDDED, TestPacket};
    use super::*;

    #[test]
    fn unit_enomem_is_retried_and_no_other_error() {
        for (answers, tries) in [(vec![0], 1), (vec![-libc::ENOMEM, -libc::ENOMEM, 0], 3)] {
            let asked = Cell::new(0);
            let run = || Ok(answers[asked.replace(asked.get() + 1)]);
            start(run).unwrap();
            assert_eq!(asked.get(), tries, "{answers:?}");
        }
        let asked = Cell::new(0);
        let run = || {
            asked.set(asked.get() + 1);
            Ok(-libc::EPERM)
        };
        let text = start(run).unwrap_err().to_string();
        assert!(text.contains("start the sweep of expired connections"), "{text}");
        assert_eq!(asked.get(), 1);
    }

    /// Threads that create and close sockets keep the per-CPU caches of the
    /// allocator empty most of the time.
    #[test]
    fn kernel_the_sweep_starts_however_busy_the_allocator_is() {
        if EMBEDDED.is_empty() {
            eprintln!("skipped: no eBPF object is embedded (run `cargo xtask ebpf`, then build again)");
            return;
        }
        let layouts = TestLayouts::new("sweep");
        let datapath = Datapath::open(layouts.root()).unwrap();
        let (done, begun, mut refused) = (AtomicBool::new(false), Instant::now(), 0);
        let started = thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        drop((0..200).map(|_| UnixStream::pair()).collect::<Vec<_>>());
                    }
                });
            }
            let mut started = Ok(());
            while started.is_ok() && begun.elapsed() < Duration::from_secs(3) {
                // Overwriting the value cancels its timer.
                let once = || {
                    datapath.sweep.write(&0, &SweepValue::default())?;
                    datapath.test_run(programs::SWEEP, &TestPacket::new(&[0; 64]))
                };
                started = once().and_then(|run| {
                    refused += u32::from(run.retval != 0);
                    datapath.start_sweep()
                });
            }
            done.store(true, Ordering::Relaxed);
            started
        });
        println!("{refused} starts failed with ENOMEM and were retried");
        started.unwrap_or_else(|error| panic!("{error}"));
    }
}
