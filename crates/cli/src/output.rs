//! Output as text or JSON.

use std::io::Write;

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns
    Text,
    /// JSON
    Json,
}

/// A row of a table.
pub trait Row: Serialize {
    /// Column headings.
    const HEADER: &'static [&'static str];
    /// The cells, one for each heading.
    fn cells(&self) -> Vec<String>;
}

/// Prints a table. In text format, `empty` is printed if there are no rows.
pub fn print<R: Row>(rows: &[R], format: Format, empty: &str) -> Result<()> {
    match format {
        Format::Json => json(&rows),
        Format::Text if rows.is_empty() => line(empty),
        Format::Text => line(&table(R::HEADER, rows.iter().map(Row::cells))),
    }
}

/// Aligned columns without borders.
pub fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// One JSON document, indented.
pub fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// One line of JSON, for streams.
pub fn json_line(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string(value)?)
}

/// One line, flushed immediately.
pub fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// A number with thousands separators: 1234567 -> 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_numbers_are_grouped_and_columns_aligned() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let rows = [vec!["long-name".to_owned(), "1".into()], vec!["x".to_owned(), "22".into()]];
        assert_eq!(table(&["NAME", "N"], rows.into_iter()), "NAME        N\nlong-name   1\nx           22");
    }
}
