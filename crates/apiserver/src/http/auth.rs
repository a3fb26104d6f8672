//! Who may ask: whoever shows the token.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::ApiError;

pub(super) fn check(headers: &HeaderMap, token: &str) -> Result<(), ApiError> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = header.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match given {
        Some((_, given)) if is_equal(given.trim().as_bytes(), token.as_bytes()) => Ok(()),
        _ => Err(ApiError::new(401, "Unauthorized", "Unauthorized")),
    }
}

/// Compares in a time that does not tell how much of the token was right.
fn is_equal(left: &[u8], right: &[u8]) -> bool {
    let difference = left.iter().zip(right).fold(0, |difference, (left, right)| difference | (left ^ right));
    left.len() == right.len() && std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_header(header: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, header.parse().unwrap());
        check(&headers, "secret").is_ok()
    }

    #[test]
    fn unit_only_the_token_opens() {
        assert!(check_header("Bearer secret"));
        assert!(check_header("bearer secret"));
        assert!(!check_header("Bearer secre"));
        assert!(!check_header("Bearer secrets"));
        assert!(!check_header("Basic secret"));
        assert!(check(&HeaderMap::new(), "secret").is_err());
    }
}
