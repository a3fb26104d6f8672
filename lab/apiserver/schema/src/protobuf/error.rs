//! Why a body cannot be decoded, and the bounds.

use beeline_apiserver_objects::ApiError;

/// Maximum nesting of messages, more than any object of Kubernetes has.
pub(super) const DEPTH_MAX: usize = 100;

/// First bytes of a body.
pub(super) const MAGIC: &[u8] = b"k8s\0";

/// Why a body cannot be decoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body does not begin with the magic.
    #[error("provided data does not appear to be a protobuf message, expected prefix {MAGIC:?}")]
    NoMagic,
    /// The message ends early, or a number has too many bytes.
    #[error("the protobuf message is truncated or has an overlong varint")]
    Truncated,
    /// A wire type that protobuf no longer has.
    #[error("field {number} has the wire type {wire}, which protobuf no longer has")]
    WireType {
        /// The wire type.
        wire: u64,
        /// Number of the field.
        number: u32,
    },
    /// The wire type is not that of the field.
    #[error("wrong wire type for field {field}")]
    WrongType {
        /// The field.
        field: &'static str,
    },
    /// The content of the field is not of its type.
    #[error("field {field} is not {expected}")]
    Content {
        /// The field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// Too many levels of messages.
    #[error("messages are nested more than {} levels deep", DEPTH_MAX)]
    TooDeep,
    /// The object is not plain protobuf.
    #[error("the envelope says that the object is encoded as {0:?}; only plain protobuf is read")]
    Encoding(String),
    /// No such kind.
    #[error("no kind {kind:?} is registered for version {version:?}")]
    Kind {
        /// The `apiVersion`.
        version: String,
        /// The kind.
        kind: String,
    },
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> Self {
        Self::bad_request(error.to_string())
    }
}
