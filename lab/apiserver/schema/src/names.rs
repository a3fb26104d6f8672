//! Rules for names and labels (RFC 1035, RFC 1123).

pub(crate) const NAME_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                         start and end with an alphanumeric character";

pub(crate) const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                              and must start and end with an alphanumeric character";

pub(crate) fn is_label_1123(text: &str) -> bool {
    let inside = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub(crate) fn is_subdomain_1123(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label_1123)
}

pub(crate) fn is_label_1035(text: &str) -> bool {
    is_label_1123(text) && text.starts_with(|letter: char| letter.is_ascii_lowercase())
}

/// IANA service names (RFC 6335), for named ports.
pub(crate) fn is_port_name(text: &str) -> bool {
    is_label_1123(text)
        && text.len() <= 15
        && text.bytes().any(|letter| letter.is_ascii_lowercase())
        && !text.contains("--")
}

/// `[PREFIX/]NAME`.
pub(crate) fn is_qualified_name(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain_1123(prefix) && !name.is_empty() && is_label_value(name),
        None => !key.is_empty() && is_label_value(key),
    }
}

pub(crate) fn is_label_value(text: &str) -> bool {
    let inside = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter);
    let edge = |letter: Option<u8>| letter.is_none_or(|letter| letter.is_ascii_alphanumeric());
    text.len() <= 63 && text.bytes().all(inside) && edge(text.bytes().next()) && edge(text.bytes().last())
}
