//! Every chore of the repository, one command each.

fn main() {}
