//! Why a body cannot be decoded, and the bounds.

use crate::objects::ApiError;

/// Maximum nesting of messages, more than any object of Kubernetes has.
pub(super) const DEPTH_MAX: usize = 100;

/// First bytes of a body.
pub(super) const MAGIC: &[u8] = b"k8s\0";

/// Why a body cannot be decoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("provided data does not appear to be a protobuf message, expected prefix {MAGIC:?}")]
    NoMagic,
    #[error("the protobuf message is truncated or has an overlong varint")]
    Truncated,
    #[error("field {number} has the wire type {wire}, which protobuf no longer has")]
    WireType { wire: u64, number: u32 },
    #[error("wrong wire type for field {field}")]
    WrongType { field: &'static str },
    #[error("field {field} is not {expected}")]
    Content { field: &'static str, expected: &'static str },
    #[error("messages are nested more than {} levels deep", DEPTH_MAX)]
    TooDeep,
    #[error("the envelope says that the object is encoded as {0:?}; only plain protobuf is read")]
    Encoding(String),
    #[error("no kind {kind:?} is registered for version {version:?}")]
    Kind { version: String, kind: String },
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> Self {
        Self::bad_request(error.to_string())
    }
}
