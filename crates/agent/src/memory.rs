//! The agent is to be small: what a listing needed for a moment goes back to
//! the system.

/// Few threads allocate much: more arenas would only keep more memory.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

/// Bytes from which on an allocation is a mapping of its own, which goes back
/// when it is freed. Said, the threshold stays: else it would rise with every
/// table that was outgrown, and the next ones would leave holes in the heap.
#[cfg(target_env = "gnu")]
const MMAP_THRESHOLD_BYTES: libc::c_int = 128 << 10;

/// Call before the first thread starts.
pub fn configure_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: changes settings of the allocator; no pointer is involved.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
    }
}

/// Gives back what is free, which costs milliseconds: asked for after what
/// needs much memory for a moment (the first listing, a comparison of all
/// tables), without the engine's lock.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator returns pages that nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}
