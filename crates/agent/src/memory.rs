//! Allocator settings that keep the agent's resident memory small.

/// Few threads allocate: more arenas would only retain more memory.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

/// Allocations of at least this size are separate mappings, which are unmapped
/// when freed. Setting the threshold disables glibc's dynamic adjustment, which
/// would raise it with every large table that is freed and leave the next ones
/// as holes in the heap.
#[cfg(target_env = "gnu")]
const MMAP_THRESHOLD_BYTES: libc::c_int = 128 << 10;

/// Must be called before the first thread starts.
pub fn configure_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: changes settings of the allocator; no pointer is involved.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
    }
}

/// Returns free memory to the system, which takes milliseconds. Called after
/// work with high temporary memory use (the initial list, a comparison of all
/// tables), without holding the engine's lock.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator only releases pages that are not in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
