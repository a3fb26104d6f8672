//! String formats of schemas. Formats that Kubernetes does not support accept any string.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine;
use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::civil::Date;

pub(super) fn fits(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => is_time(text),
        "date" => text.parse::<Date>().is_ok(),
        "duration" => is_duration(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "ip" => text.parse::<IpAddr>().is_ok(),
        "cidr" => text.parse::<IpNet>().is_ok(),
        "mac" => is_mac(text),
        "uri" => text.parse::<http::Uri>().is_ok() && (text.contains(':') || text.starts_with('/')),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => is_uuid(format, text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "hexcolor" => {
            text.strip_prefix('#').is_some_and(|digits| matches!(digits.len(), 3 | 6) && is_hex(digits))
        }
        _ => true,
    }
}

/// RFC 3339 date-time; a date alone is invalid.
fn is_time(text: &str) -> bool {
    text.len() >= "2006-01-02T15:04:05Z".len()
        && text.get(10..11).is_some_and(|letter| matches!(letter, "T" | "t" | " "))
        && text.parse::<Timestamp>().is_ok()
}

/// Durations such as `1h30m`, `1.5s`, `300ms` and, with unit names, `3 days`.
fn is_duration(text: &str) -> bool {
    const UNITS: &[&str] = &[
        "ns", "us", "µs", "ms", "s", "m", "h", "d", "w", "sec", "min", "hour", "hours", "day", "days",
        "week", "weeks", "second", "seconds", "minute", "minutes",
    ];
    if text == "0" {
        return true;
    }
    let mut rest = text.trim_start_matches(['-', '+']);
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number =
            rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let unit_start = rest[number..].trim_start();
        let unit = unit_start.find(|letter: char| !letter.is_alphabetic()).unwrap_or(unit_start.len());
        if rest[..number].parse::<f64>().is_err() || !UNITS.contains(&&unit_start[..unit]) {
            return false;
        }
        rest = unit_start[unit..].trim_start();
    }
    true
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    matches!(parts.len(), 6 | 8) && parts.iter().all(|part| part.len() == 2 && is_hex(part))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|letter| letter.is_ascii_hexdigit())
}

fn is_email(text: &str) -> bool {
    text.split_once('@').is_some_and(|(name, host)| {
        !name.is_empty() && !name.contains(char::is_whitespace) && !host.contains('@') && is_hostname(host)
    })
}

fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|letter| letter.is_ascii_alphanumeric() || letter == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 255 && text.split('.').all(label)
}

fn is_uuid(format: &str, text: &str) -> bool {
    let digits: String = text.chars().filter(|letter| *letter != '-').collect();
    let version = format.strip_prefix("uuid").unwrap_or_default();
    digits.len() == 32
        && is_hex(&digits)
        && matches!(text.len(), 32 | 36)
        && (version.is_empty() || digits.get(12..13) == Some(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_formats_accept_valid_strings() {
        for (format, good, bad) in [
            ("date-time", "2023-11-14T22:13:20Z", "2023-11-14"),
            ("date-time", "2023-11-14T22:13:20.5+02:00", "yesterday"),
            ("date", "2023-11-14", "14.11.2023"),
            ("duration", "1h30m", "soon"),
            ("ipv4", "10.0.0.1", "10.0.0.300"),
            ("ipv6", "fd00::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("mac", "00:11:22:33:44:55", "00:11:22"),
            ("hostname", "a.example", "-a"),
            ("email", "a@b.example", "a"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
            ("byte", "aGk=", "%%"),
        ] {
            assert!(fits(format, good), "{format} {good}");
            assert!(!fits(format, bad), "{format} {bad}");
        }
        assert!(fits("a-format-of-the-future", "anything"));
    }
}
