//! The packet path over the native body.

mod external;
mod host;
mod hostile;
mod maglev;
mod paths;
mod world;
