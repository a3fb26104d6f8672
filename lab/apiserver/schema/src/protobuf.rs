//! Protobuf request bodies, which Go clients send for built-in kinds.
//!
//! A body is a four-byte magic and an envelope with the kind and the object. It is decoded to the
//! JSON that the same client would send. Responses are JSON, which these clients accept.

mod error;
mod messages;
mod value;
mod wire;

use serde_json::Value;

use error::MAGIC;
use messages::Message;
use wire::{Reader, Wire};

pub use error::DecodeError;

/// Media type of the bodies.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Decodes the object in a body to JSON.
pub fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let envelope = Envelope::read(body.strip_prefix(MAGIC).ok_or(DecodeError::NoMagic)?)?;
    if let Some(encoding) = [envelope.encoding, envelope.content_type].into_iter().find(|one| !one.is_empty())
    {
        return Err(DecodeError::Encoding(encoding));
    }
    let Some(message) = message(&envelope.version, &envelope.kind) else {
        return Err(DecodeError::Kind { version: envelope.version, kind: envelope.kind });
    };
    let mut object = value::object(message, envelope.object, 0)?;
    object.insert("apiVersion".to_owned(), envelope.version.into());
    object.insert("kind".to_owned(), envelope.kind.into());
    Ok(Value::Object(object))
}

/// The message of a kind. A package has the name of the first label of its group.
fn message(api_version: &str, kind: &str) -> Option<&'static Message> {
    // Every group has this kind.
    if kind == "DeleteOptions" {
        return messages::find("meta.v1", kind);
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let package = format!("{}.{version}", group.split('.').next().unwrap_or_default());
    messages::find(&package, kind)
}

/// `runtime.Unknown`.
#[derive(Default)]
struct Envelope<'a> {
    version: String,
    kind: String,
    object: &'a [u8],
    encoding: String,
    content_type: String,
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (mut envelope, mut reader) = (Self::default(), Reader(bytes));
        while let Some((number, wire)) = reader.field()? {
            let Wire::Bytes(bytes) = wire else { continue };
            match number {
                1 => envelope.read_type(bytes)?,
                2 => envelope.object = bytes,
                3 => envelope.encoding = value::text("contentEncoding", bytes)?,
                4 => envelope.content_type = value::text("contentType", bytes)?,
                _ => {}
            }
        }
        Ok(envelope)
    }

    fn read_type(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.field()? {
            match (number, wire) {
                (1, Wire::Bytes(bytes)) => self.version = value::text("apiVersion", bytes)?,
                (2, Wire::Bytes(bytes)) => self.kind = value::text("kind", bytes)?,
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
