//! One values schema for the lab, the agent's configuration file and the chart.
//!
//! ```
//! let mut settings = beeline_values::Settings::from_yaml("routingMode: native").unwrap();
//! settings.merge(beeline_values::Settings::from_set(&["MTU=1450"]).unwrap());
//! let parsed = settings.parse();
//! assert_eq!(parsed.values.mtu, Some(1450));
//! ```
//!
//! The names are Cilium's. An unknown name is an error that suggests the
//! nearest known one, a deprecated name is accepted with a notice, and a
//! setting that is not implemented is accepted with a message that names it.

pub mod chart;
mod check;
mod deprecated;
pub mod schema;
mod set;
mod suggestion;
mod values;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::schema::{Key, Support};
pub use crate::values::Values;

/// Why a value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ValueError {
    /// It is not of the form `name=value`.
    #[error("`{text}` is not a setting: write NAME=VALUE, for example routingMode=native")]
    Syntax {
        /// What was written.
        text: String,
    },
    /// The file is not YAML, or not a mapping.
    #[error("the values are not a YAML mapping: {error}")]
    Yaml {
        /// The parser's message.
        error: String,
    },
    /// There is no value of this name.
    #[error("unknown value `{name}`{}", suggestion(nearest))]
    Unknown {
        /// What was written.
        name: String,
        /// The nearest known name.
        nearest: Option<&'static str>,
    },
    /// The name is a group of values, and was given a value.
    #[error("`{name}` is a group, not a value: set one of {members}")]
    Group {
        /// What was written.
        name: String,
        /// The values of the group.
        members: String,
    },
    /// The value has another type, or is out of range.
    #[error("{key}={value}: expected {expected}")]
    WrongType {
        /// The name.
        key: &'static str,
        /// What was written.
        value: String,
        /// What the type accepts.
        expected: String,
    },
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// Every value that cannot be used, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValuesError(pub Vec<ValueError>);

impl fmt::Display for ValuesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ValuesError {}

/// What a user has set, under current names and in the right types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    set: BTreeMap<&'static str, Value>,
    notices: Vec<String>,
}

/// Typed values, and messages about settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedValues {
    /// The values, with defaults.
    pub values: Values,
    /// Deprecated names and words that were accepted, and what to write instead.
    pub notices: Vec<String>,
    /// Settings that are not implemented, and what is used instead.
    pub not_implemented: Vec<String>,
}

impl Settings {
    /// Reads a values file.
    pub fn from_yaml(text: &str) -> Result<Settings, ValuesError> {
        let wrong = |error: String| ValuesError(vec![ValueError::Yaml { error }]);
        let root = match text.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#')) {
            true => Value::Object(Map::new()),
            false => serde_saphyr::from_str(text).map_err(|e| wrong(e.to_string()))?,
        };
        let Value::Object(root) = root else {
            return Err(wrong("expected `name: value` lines".into()));
        };
        let mut reader = Reader::default();
        reader.group("", root);
        reader.finish()
    }

    /// Reads `--set` arguments, each in Helm's syntax; later ones override earlier ones.
    pub fn from_set<T: AsRef<str>>(arguments: &[T]) -> Result<Settings, ValuesError> {
        let mut reader = Reader::default();
        for argument in arguments {
            match set::pairs(argument.as_ref()) {
                Ok(pairs) => pairs.into_iter().for_each(|(name, value)| reader.set(&name, value)),
                Err(error) => reader.errors.push(error),
            }
        }
        reader.finish()
    }

    /// Overrides the settings with those of `other`; `null` unsets a value.
    pub fn merge(&mut self, other: Settings) {
        self.notices.extend(other.notices);
        self.set.extend(other.set);
    }

    /// The setting of this name, if it is set.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.set.get(name).filter(|value| !value.is_null())
    }

    /// Types the settings and fills in defaults.
    pub fn parse(&self) -> ParsedValues {
        ParsedValues {
            values: Values::from_settings(self),
            notices: self.notices.clone(),
            not_implemented: self.not_implemented(),
        }
    }

    /// The settings as a values file, under current names.
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        for (name, value) in self.set.iter().filter(|(_, value)| !value.is_null()) {
            // JSON is YAML; a flat file with dotted names is read back by
            // `from_yaml` and shows every setting on a line of its own.
            out.push_str(&format!("{name}: {value}\n"));
        }
        out
    }

    fn not_implemented(&self) -> Vec<String> {
        let set = self.set.iter().filter(|(_, value)| !value.is_null());
        set.filter_map(|(name, value)| schema::find(name).and_then(|key| not_implemented(key, value)))
            .collect()
    }
}

/// The message for a setting that is not implemented.
fn not_implemented(key: &Key, value: &Value) -> Option<String> {
    let (name, text) = (key.name, check::to_text(value));
    match key.support {
        Support::Full => None,
        _ if text == key.default => None,
        Support::Chart => Some(format!("{name}={text} is read by the chart only, and is ignored here")),
        Support::Only(words, _) if words.contains(&text.as_str()) => None,
        Support::Only(words, meaning) => {
            let meaning = if meaning.is_empty() { String::new() } else { format!(" ({meaning})") };
            let used = words[0];
            Some(format!("{name}={text} is not implemented: ignored, {name}={used} is used instead{meaning}"))
        }
        Support::Ignored(reason) => {
            Some(format!("{name}={text} is not implemented: ignored, because {reason}"))
        }
    }
}

/// Collects settings and errors.
#[derive(Default)]
struct Reader {
    settings: Settings,
    errors: Vec<ValueError>,
}

impl Reader {
    fn finish(self) -> Result<Settings, ValuesError> {
        if self.errors.is_empty() { Ok(self.settings) } else { Err(ValuesError(self.errors)) }
    }

    fn group(&mut self, prefix: &str, members: Map<String, Value>) {
        for (name, value) in members {
            let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            self.set(&name, value);
        }
    }

    fn set(&mut self, name: &str, value: Value) {
        if let Some(key) = schema::find(name) {
            return self.set_key(key, value);
        }
        if let Some(current) = deprecated::name(name, &value) {
            self.settings.notices.push(current.notice);
            return current.values.into_iter().for_each(|(name, value)| self.set(&name, value));
        }
        if let Some(rest) = name.strip_prefix("global.").filter(|rest| !rest.is_empty()) {
            self.settings.notices.push(format!("{name} is deprecated: use {rest}"));
            return self.set(rest, value);
        }
        self.not_a_value(name, value);
    }

    fn set_key(&mut self, key: &'static Key, value: Value) {
        if value.is_null() {
            self.settings.set.insert(key.name, value);
            return;
        }
        let value = match deprecated::value(key.name, &value) {
            Some((current, notice)) => {
                self.settings.notices.push(notice);
                current
            }
            None => value,
        };
        match check::check(key, &value) {
            Ok(value) => drop(self.settings.set.insert(key.name, value)),
            Err(error) => self.errors.push(error),
        }
    }

    /// The name is a group, a path below a free-form value, or unknown.
    fn not_a_value(&mut self, name: &str, value: Value) {
        let members: Vec<&str> = schema::group(name).map(|key| key.name).collect();
        match value {
            Value::Object(inner) if !members.is_empty() || name == "global" => self.group(name, inner),
            Value::Null if !members.is_empty() => {}
            _ if !members.is_empty() => {
                self.errors.push(ValueError::Group { name: name.to_owned(), members: members.join(", ") })
            }
            value => match free_form(name) {
                Some((key, rest)) => self.set_path(key, rest, value),
                None => self
                    .errors
                    .push(ValueError::Unknown { name: name.to_owned(), nearest: suggestion::nearest(name) }),
            },
        }
    }

    /// `image.tag=x` sets one part of the free-form value `image`.
    fn set_path(&mut self, key: &'static Key, rest: &str, value: Value) {
        let mut slot = self.settings.set.entry(key.name).or_insert_with(|| Value::Object(Map::new()));
        for part in rest.split('.') {
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            slot = &mut slot[part];
        }
        *slot = value;
    }
}

/// The free-form value above this name, and the path below it.
fn free_form(name: &str) -> Option<(&'static Key, &str)> {
    schema::KEYS.iter().filter(|key| key.kind == schema::Kind::Any).find_map(|key| {
        let rest = name.strip_prefix(key.name)?.strip_prefix('.')?;
        (!rest.is_empty()).then_some((key, rest))
    })
}
