//! Markdown tables with aligned columns, readable on a terminal too.

use crate::result::{Footing, Row, Run};

/// A table whose first column is words and whose others are figures.
#[derive(Debug, Default)]
pub(crate) struct Table {
    lines: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub(crate) fn new(heads: &[&str]) -> Self {
        Self { lines: vec![heads.iter().map(|head| (*head).to_owned()).collect()] }
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, cells: impl IntoIterator<Item = String>) {
        self.lines.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.lines.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for (index, line) in self.lines.iter().enumerate() {
            for (column, width) in widths.iter().enumerate() {
                let cell = line.get(column).map_or("", String::as_str);
                match column {
                    0 => write!(f, "| {cell:<width$} |")?,
                    _ => write!(f, " {cell:>width$} |")?,
                }
            }
            writeln!(f)?;
            if index == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(width + 1);
                    write!(
                        f,
                        "{}{dashes}{}",
                        if column == 0 { "|" } else { "" },
                        if column == 0 { "-|" } else { ":|" }
                    )?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// The cases.
pub(crate) fn rows(run: &Run) -> Table {
    let mut table = Table::new(&[
        "case",
        "requests/s",
        "lowest–highest",
        "× nginx",
        "CPU µs",
        "p50",
        "p99",
        "p99.9",
        "half: p50",
        "p99",
        "p99.9",
    ]);
    for row in &run.rows {
        table.line(cells(row, &run.rows));
    }
    table
}

fn cells(row: &Row, rows: &[Row]) -> Vec<String> {
    let unserved: u64 = row.rounds.iter().map(|round| round.unserved).sum();
    let mark = if unserved > 0 { format!(" ({unserved} unserved)") } else { String::new() };
    let (lowest, highest) = row.spread();
    let database = row.median(|round| round.database_cpu);
    let cpu = row.median(|round| round.cpu);
    let mut cells = vec![
        format!("{}{mark}", row.case),
        count(row.median(|round| round.rate)),
        format!("{}–{}", count(lowest), count(highest)),
        row.ratio(rows).map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
        if database > 0.0 { format!("{} ({} DB)", micros(cpu), micros(database)) } else { micros(cpu) },
    ];
    for figure in [
        row.median(|round| round.closed.p50),
        row.median(|round| round.closed.p99),
        row.median(|round| round.closed.p999),
        row.median(|round| round.half.p50),
        row.median(|round| round.half.p99),
        row.median(|round| round.half.p999),
    ] {
        cells.push(micros(figure));
    }
    cells
}

/// Start and memory.
pub(crate) fn footings(footings: &[Footing]) -> Table {
    let mut table = Table::new(&["program", "start to ready, ms", "MiB when ready", "MiB after reads"]);
    for Footing { name, ready, memory_ready, memory_read } in footings {
        let figures = [ready, memory_ready, memory_read].map(|figure| format!("{figure:.1}"));
        table.line([name.clone()].into_iter().chain(figures));
    }
    table
}

/// A rate: a whole number, with thin spaces between groups of three digits.
pub(crate) fn count(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// Microseconds: at least three digits, and only significant ones.
pub(crate) fn micros(figure: f64) -> String {
    if figure < 100.0 { format!("{figure:.1}") } else { count(figure) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Percentiles, Round};

    #[test]
    fn figures_are_short_and_grouped() {
        assert_eq!([0.0, 999.0, 1000.4, 1_234_567.0].map(count), ["0", "999", "1 000", "1 234 567"]);
        assert_eq!([9.96, 99.94, 100.0, 12_345.6].map(micros), ["10.0", "99.9", "100", "12 346"]);
    }

    #[test]
    fn a_table_is_aligned_markdown() {
        let mut table = Table::new(&["a", "b"]);
        table.line(["long".to_owned(), "1".to_owned()]);
        table.line(["µ".to_owned(), "22".to_owned()]);
        assert_eq!(table.to_string(), "| a    |  b |\n|------|---:|\n| long |  1 |\n| µ    | 22 |\n");
    }

    #[test]
    fn a_case_shows_medians_its_ratio_and_what_was_not_served() {
        let half = Percentiles { p50: 50.0, p99: 99.0, p999: 999.0 };
        let round =
            |rate, unserved| Round { rate, cpu: 10.0, closed: half, half, unserved, ..Round::default() };
        let row = |case: &str, rounds: Vec<Round>| Row {
            case: case.to_owned(),
            yardstick: "nginx".to_owned(),
            rounds,
        };
        let rows = [
            row("nginx", vec![round(2000.0, 0); 3]),
            row("ours", vec![round(900.0, 0), round(1000.0, 2), round(1100.0, 0)]),
        ];
        let cells = cells(&rows[1], &rows);
        assert_eq!(cells[..5], ["ours (2 unserved)", "1 000", "900–1 100", "0.50", "10.0"]);
        assert_eq!(cells[5..], ["50.0", "99.0", "999", "50.0", "99.0", "999"]);
    }
}
