//! Pod address pools as a pure state machine.
