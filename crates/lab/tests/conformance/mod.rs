//! Stories by what they are about.

pub mod change;
pub mod choice;
pub mod endings;
pub mod invalid;
pub mod outside;
pub mod world;
