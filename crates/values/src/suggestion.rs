//! The known name that is nearest to an unknown one, for error messages.

use crate::{deprecated, schema};

/// The known name that a misspelt one most likely means. Case is ignored. The
/// part after the last dot is also compared alone, because people forget the
/// group.
pub fn nearest(unknown: &str) -> Option<&'static str> {
    let wanted = unknown.to_lowercase();
    let known = schema::KEYS.iter().map(|key| key.name).chain(deprecated::names());
    known
        .map(|name| (distance_to(&wanted, name), name))
        .filter(|(distance, name)| *distance <= 2.max(name.len().min(wanted.len()) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Edit distance to the whole name, or to its last part plus one.
fn distance_to(wanted: &str, name: &str) -> usize {
    let name = name.to_lowercase();
    let whole = distance(wanted, &name);
    let last = |s: &str| s.rsplit('.').next().unwrap_or_default().to_owned();
    let (wanted_last, name_last) = (last(wanted), last(&name));
    if wanted_last.len() < 6 {
        // Short last parts (`mode`) are common to many names.
        return whole;
    }
    whole.min(distance(&wanted_last, &name_last) + 1)
}

/// Edit distance with transpositions (Damerau-Levenshtein, optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 { i + j } else { step(&rows, &a, &b, i, j) };
        }
    }
    rows[a.len()][b.len()]
}

fn step(rows: &[Vec<usize>], a: &[char], b: &[char], i: usize, j: usize) -> usize {
    let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
    let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
        best = best.min(rows[i - 2][j - 2] + 1);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_misspelt_names_find_their_neighbour() {
        for (wrong, right) in [
            ("rooutingMode", "routingMode"),
            ("routingmode", "routingMode"),
            ("bpf.masqurade", "bpf.masquerade"),
            ("loadbalancer.mod", "loadBalancer.mode"),
            ("ctTcpMax", "bpf.ctTcpMax"),
            ("kubeProxyReplacment", "kubeProxyReplacement"),
            ("k8sServiceHots", "k8sServiceHost"),
        ] {
            assert_eq!(nearest(wrong), Some(right), "{wrong}");
        }
        assert_eq!(nearest("completelyDifferentThing"), None);
    }
}
