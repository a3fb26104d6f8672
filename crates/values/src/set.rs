//! `--set` in Helm's syntax: `a.b=c,d=e`, escapes with `\`, lists `{a,b}`,
//! `null` to unset a value.

use serde_json::Value;

use crate::ValueError;

/// The pairs of one `--set` argument, names still as the user wrote them.
pub fn pairs(argument: &str) -> Result<Vec<(String, Value)>, ValueError> {
    split(argument, ',').into_iter().filter(|part| !part.trim().is_empty()).map(pair).collect()
}

fn pair(text: &str) -> Result<(String, Value), ValueError> {
    let name = split(text, '=').first().copied().unwrap_or_default();
    match text[name.len()..].strip_prefix('=') {
        Some(value) if !name.trim().is_empty() => Ok((unescape(name.trim()), parse(value))),
        _ => Err(ValueError::Syntax { text: text.to_owned() }),
    }
}

/// One value: a list, or a scalar typed as Helm types it.
fn parse(text: &str) -> Value {
    match text.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
        Some("") => Value::Array(Vec::new()),
        Some(inner) => Value::Array(split(inner, ',').into_iter().map(scalar).collect()),
        None => scalar(text),
    }
}

fn scalar(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        _ if text.starts_with('0') && text.len() > 1 => Value::String(unescape(text)),
        _ => text.parse::<i64>().map_or_else(|_| Value::String(unescape(text)), Value::from),
    }
}

/// Splits at a separator that is neither escaped nor inside braces.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut escaped) = (Vec::new(), 0, 0usize, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            c if c == separator && depth == 0 => {
                parts.push(&text[start..i]);
                start = i + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> String {
    let (mut out, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unit_set_follows_helm() {
        for (text, expected) in [
            ("a.b=c", json!([["a.b", "c"]])),
            ("a=1,b=true", json!([["a", 1], ["b", true]])),
            ("a={x,y}", json!([["a", ["x", "y"]]])),
            ("a={}", json!([["a", []]])),
            (r"a=x\,y", json!([["a", "x,y"]])),
            (r"a\.b=c", json!([["a.b", "c"]])),
            ("a=b=c", json!([["a", "b=c"]])),
            ("a=", json!([["a", ""]])),
            ("a=null", json!([["a", null]])),
            ("a=10.0.0.0/8", json!([["a", "10.0.0.0/8"]])),
            ("a=007", json!([["a", "007"]])),
        ] {
            let got = serde_json::to_value(pairs(text).unwrap()).unwrap();
            assert_eq!(got, expected, "{text}");
        }
        assert!(pairs("novalue").is_err());
        assert!(pairs("=x").is_err());
    }
}
