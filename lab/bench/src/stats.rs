//! Medians with quartiles and confidence intervals.

use std::fmt;

/// Summary of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Median.
    pub median: f64,
    /// Lower quartile.
    pub low: f64,
    /// Upper quartile.
    pub high: f64,
    /// Number of values.
    pub count: usize,
}

impl Summary {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Summary {
        let sorted = sorted(values);
        let at = |fraction: f64| sorted[((sorted.len() - 1) as f64 * fraction).round() as usize];
        Summary { median: at(0.5), low: at(0.25), high: at(0.75), count: sorted.len() }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = usize::from(self.median < 100.0);
        write!(f, "{:.places$} ({:.places$} to {:.places$})", self.median, self.low, self.high)
    }
}

/// Ratio of values that were measured in pairs: its median, and the interval
/// that holds the true median with 95% probability (order statistics of the
/// binomial distribution, no shape is assumed).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Median of the pairs' ratios.
    pub median: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Ratio {
    /// Ratios of each value to the value at the same index in `to`.
    pub fn of(values: &[f64], to: &[f64]) -> Ratio {
        let ratios: Vec<f64> = values.iter().zip(to).map(|(value, to)| value / to).collect();
        let sorted = sorted(&ratios);
        let rank = lower_rank(sorted.len());
        Ratio {
            median: Summary::of(&sorted).median,
            low: sorted[rank],
            high: sorted[sorted.len() - 1 - rank],
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.median, self.low, self.high)
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The largest rank `k` such that at most 2.5% of samples have their median
/// below the value of that rank.
fn lower_rank(count: usize) -> usize {
    let mut probability = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut below = probability;
    let mut rank = 0;
    while rank + 1 < count / 2 {
        probability *= (count - rank) as f64 / (rank + 1) as f64;
        if below + probability > 0.025 {
            break;
        }
        below += probability;
        rank += 1;
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_the_median_lies_between_the_quartiles() {
        let values: Vec<f64> = (1..=9).rev().map(f64::from).collect();
        assert_eq!(Summary::of(&values), Summary { median: 5.0, low: 3.0, high: 7.0, count: 9 });
        assert_eq!(Summary::of(&[4.0]).median, 4.0);
    }

    /// Ranks as tables of the sign test have them: 20 pairs, the sixth value.
    #[test]
    fn unit_the_interval_has_the_ranks_of_the_sign_test() {
        assert_eq!([6, 10, 20, 40].map(lower_rank), [0, 1, 5, 13]);
        let to: Vec<f64> = vec![2.0; 20];
        let values: Vec<f64> = (0..20).map(|i| 2.0 + f64::from(i)).collect();
        let ratio = Ratio::of(&values, &to);
        assert_eq!((ratio.low, ratio.high), (3.5, 8.0));
    }
}
