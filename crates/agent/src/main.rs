//! The node agent: wires source, plan, sync and kernel together.

fn main() {}
