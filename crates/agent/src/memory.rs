//! The agent is to be small: what a listing needed for a moment goes back to
//! the system.

/// Few threads allocate much: more arenas would only keep more memory.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

/// Call before the first thread starts.
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: changes a setting of the allocator; no pointer is involved.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
    }
}

/// Gives back what is free, which costs milliseconds: asked for after what
/// needs much memory for a moment (the first listing, a comparison of all
/// tables), without the engine's lock.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator returns pages that nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}
