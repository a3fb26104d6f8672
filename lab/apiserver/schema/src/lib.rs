//! Kinds and their schemas, built-in and custom: defaults, validation, OpenAPI, and protobuf bodies.

pub mod built_in;
pub mod custom;
pub mod defaults;
pub mod definition;
pub mod describe;
pub mod kind;
pub mod names;
pub mod openapi;
pub mod protobuf;
pub mod validate;

pub use kind::{Kind, Kinds};
