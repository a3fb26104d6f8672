//! Errors as in the CNI specification (section 5, "Error"): a code, a message
//! and details.

use std::fmt;

use beeline_api::{ClientError, ErrorKind};
use serde_json::{Value, json};

/// Error codes: 1 to 99 are defined by the specification, the others by Beeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The network configuration's CNI version is not supported.
    IncompatibleVersion = 1,
    /// A field of the network configuration is not supported.
    UnsupportedField = 2,
    /// The container does not exist; no cleanup is needed.
    UnknownContainer = 3,
    /// An environment variable is missing or invalid.
    InvalidEnvironment = 4,
    /// Reading or writing failed.
    InputOutput = 5,
    /// The network configuration is not JSON of the expected form.
    Decode = 6,
    /// The network configuration is invalid.
    InvalidConfig = 7,
    /// A temporary failure; the runtime should try again.
    TryAgain = 11,
    /// STATUS: ADD cannot be served.
    NotAvailable = 50,
    /// No free address is left in the pod CIDRs of the node.
    Exhausted = 100,
    /// CHECK found that the attachment differs from the result of ADD.
    Mismatch = 101,
    /// The interface could not be created or configured.
    Interface = 102,
    /// The agent failed or rejected the call.
    Agent = 103,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// Error code.
    pub code: Code,
    /// What failed, with the name of the object.
    pub message: String,
    /// The likely cause and the next step.
    pub details: String,
}

impl CniError {
    /// An error without details.
    pub fn new(code: Code, message: impl Into<String>) -> CniError {
        CniError { code, message: message.into(), details: String::new() }
    }

    /// Adds details to the error.
    pub fn with_details(mut self, details: impl fmt::Display) -> CniError {
        if !self.details.is_empty() {
            self.details.push_str("; ");
        }
        self.details.push_str(&details.to_string());
        self
    }

    /// The error object of the specification, with this CNI version.
    pub fn to_json(&self, version: &str) -> Value {
        let mut object = json!({ "cniVersion": version, "code": self.code as u32, "msg": self.message });
        if !self.details.is_empty() {
            object["details"] = json!(self.details);
        }
        object
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code as u32)?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for CniError {}

impl From<ClientError> for CniError {
    fn from(error: ClientError) -> CniError {
        let code = match &error {
            ClientError::Unreachable { .. }
            | ClientError::TimedOut { .. }
            | ClientError::Disconnected { .. } => Code::TryAgain,
            ClientError::Protocol { .. } => Code::Agent,
            ClientError::CallFailed(refusal) => match refusal.kind {
                ErrorKind::Exhausted => Code::Exhausted,
                ErrorKind::TryAgain => Code::TryAgain,
                ErrorKind::Mismatch => Code::Mismatch,
                ErrorKind::Unknown => Code::UnknownContainer,
                ErrorKind::Invalid | ErrorKind::Denied | ErrorKind::Internal => Code::Agent,
            },
        };
        CniError::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_api::ApiError;

    #[test]
    fn unit_an_error_is_an_object_with_version_code_message_and_details() {
        let error = CniError::new(Code::InvalidConfig, "the name is missing").with_details("add \"name\"");
        let expected = json!({ "cniVersion": "1.0.0", "code": 7, "msg": "the name is missing", "details": "add \"name\"" });
        assert_eq!(error.to_json("1.0.0"), expected);
        let bare = CniError::new(Code::TryAgain, "later").to_json("1.1.0");
        assert_eq!(bare.get("details"), None);
    }

    #[test]
    fn unit_an_absent_agent_means_try_again_and_an_exhausted_pool_has_a_code_of_its_own() {
        let absent =
            beeline_api::Client::new("/nonexistent/sock").call(beeline_api::Call::Ready).unwrap_err();
        assert_eq!(CniError::from(absent).code, Code::TryAgain);
        let refusal = ApiError { kind: ErrorKind::Exhausted, message: "no address is left".into() };
        let exhausted = CniError::from(ClientError::CallFailed(refusal));
        assert_eq!((exhausted.code, exhausted.message.as_str()), (Code::Exhausted, "no address is left"));
    }
}
