//! The only room that makes networking system calls.
