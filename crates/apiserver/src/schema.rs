//! Kinds and their schemas, built-in and custom: defaults, validation, OpenAPI, and protobuf bodies.

pub(crate) mod built_in;
pub(crate) mod custom;
pub(crate) mod defaults;
pub(crate) mod definition;
pub(crate) mod describe;
pub(crate) mod kind;
pub(crate) mod names;
pub(crate) mod openapi;
pub(crate) mod protobuf;
pub(crate) mod validate;

pub use kind::{Kind, Kinds};
