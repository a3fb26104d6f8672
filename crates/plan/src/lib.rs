//! From cluster facts to desired tables.
