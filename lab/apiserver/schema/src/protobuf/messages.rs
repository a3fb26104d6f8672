//! Field numbers of the messages, parsed once from `messages.txt`.

use std::collections::HashMap;
use std::sync::OnceLock;

const TABLE: &str = include_str!("messages.txt");

/// Fields of a message by number.
pub(super) type Message = HashMap<u32, Field>;

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    /// JSON name; empty for an embedded message whose fields are inlined in its parent.
    pub name: &'static str,
    pub cardinality: Cardinality,
    /// Whether zero differs from absence.
    pub explicit_presence: bool,
    pub kind: Type,
}

/// Cardinality of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cardinality {
    One,
    List,
    /// Map with string keys.
    Map,
}

/// Type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Int,
    Bool,
    Double,
    /// Base64 in JSON.
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// A message that contains JSON.
    Json,
    /// A message with a list of strings, which is a plain list in JSON.
    Strings,
    /// A schema or a boolean.
    OrBool,
    /// A schema or a list of schemas.
    OrArray,
    /// A schema or a list of strings.
    OrStrings,
    /// The message of this package and name.
    Message {
        package: &'static str,
        name: &'static str,
    },
}

/// The message with this package and name, such as `core.v1` and `Pod`.
pub(super) fn find(package: &str, name: &str) -> Option<&'static Message> {
    all().get(package)?.get(name)
}

type Packages = HashMap<&'static str, HashMap<&'static str, Message>>;

/// All messages, by package and name.
pub(super) fn all() -> &'static Packages {
    static ALL: OnceLock<Packages> = OnceLock::new();
    ALL.get_or_init(|| parse(TABLE))
}

fn parse(table: &'static str) -> Packages {
    let mut packages = Packages::new();
    let (mut package, mut message) = ("", "");
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let mut tokens = line.split_whitespace();
        if !line.starts_with(' ') {
            let name = tokens.next().unwrap_or_default();
            (package, message) = name.rsplit_once('.').unwrap_or(("", name));
        }
        let fields = packages.entry(package).or_default().entry(message).or_default();
        fields.extend(tokens.filter_map(|token| field(package, token)));
    }
    packages
}

/// Parses a field such as `6:ports[]=ContainerPort`.
fn field(package: &'static str, token: &'static str) -> Option<(u32, Field)> {
    let (number, rest) = token.split_once(':')?;
    let (name, kind) =
        rest.split_once('=').map_or((rest, Type::Text), |(name, kind)| (name, of(package, kind)));
    let (name, explicit_presence) = name.strip_suffix('?').map_or((name, false), |name| (name, true));
    let (name, cardinality) = match (name.strip_suffix("[]"), name.strip_suffix("{}")) {
        (Some(name), _) => (name, Cardinality::List),
        (_, Some(name)) => (name, Cardinality::Map),
        _ => (name, Cardinality::One),
    };
    Some((number.parse().ok()?, Field { name, cardinality, explicit_presence, kind }))
}

fn of(package: &'static str, token: &'static str) -> Type {
    match token {
        "int" => Type::Int,
        "bool" => Type::Bool,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "time" => Type::Time,
        "micro-time" => Type::MicroTime,
        "quantity" => Type::Quantity,
        "int-or-string" => Type::IntOrString,
        "json" => Type::Json,
        "strings" => Type::Strings,
        "or-bool" => Type::OrBool,
        "or-array" => Type::OrArray,
        "or-strings" => Type::OrStrings,
        _ => {
            let (package, name) = token.rsplit_once('.').unwrap_or((package, token));
            Type::Message { package, name }
        }
    }
}
