//! What happens to a packet: bytes, tables and time in, verdict out.
