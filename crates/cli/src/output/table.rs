//! Tables for people: aligned columns, cut to the width of the terminal.
//!
//! Cells lose control characters and those that change the direction of text.

use anstyle::Style;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

const HEADER: Style = Style::new().bold();

/// Rows of cells in columns as wide as they must be.
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    empty: &'static str,
}

impl Table {
    /// A table with a line of headings. `empty` is said when there are no rows.
    pub(crate) fn new(header: Vec<&'static str>, rows: Vec<Vec<String>>, empty: &'static str) -> Self {
        Self { header, rows, empty }
    }

    /// Two columns, names and values; an empty name continues the one above.
    pub(crate) fn fields(rows: Vec<(&'static str, String)>) -> Self {
        let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        Self { header: Vec::new(), rows, empty: "" }
    }

    fn width_of_last(&self, widths: &[usize], terminal: Option<usize>) -> usize {
        match terminal {
            Some(terminal) if !self.header.is_empty() => {
                let before: usize = widths.iter().rev().skip(1).map(|width| width + 2).sum();
                terminal.saturating_sub(before).max(LEAST)
            }
            _ => usize::MAX,
        }
    }

    /// The text. Where the terminal is too narrow for a list, its last column is cut, down to [`LEAST`] columns; the others
    /// are never: a name is there to be copied.
    pub(super) fn render(&self, terminal: Option<usize>) -> String {
        if self.rows.is_empty() {
            return if self.empty.is_empty() { String::new() } else { format!("{}\n", self.empty) };
        }
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(|cell| harmless(cell)).collect()).collect();
        let columns = rows[0].len();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].width());
            cells.chain(self.header.get(column).map(|heading| heading.width())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let most = self.width_of_last(&widths, terminal);
        let mut text = String::new();
        if !self.header.is_empty() {
            let header = line(self.header.iter().copied(), &widths, most);
            text.push_str(&format!("{HEADER}{header}{HEADER:#}\n"));
        }
        for row in &rows {
            text.push_str(&line(row.iter().map(String::as_str), &widths, most));
            text.push('\n');
        }
        text
    }
}

/// Columns that the cut one keeps at least.
const LEAST: usize = 12;

/// The cells of one line, two blanks between them and none at its end; of the last one at most `most` columns.
fn line<'a>(cells: impl Iterator<Item = &'a str>, widths: &[usize], most: usize) -> String {
    let mut text = String::new();
    for (i, (cell, width)) in cells.zip(widths).enumerate() {
        if i + 1 == widths.len() && cell.width() > most {
            text.push_str(&cut(cell, most));
            break;
        }
        text.push_str(cell);
        let padding = width.saturating_sub(cell.width()) + 2;
        text.extend(std::iter::repeat_n(' ', padding));
    }
    text.truncate(text.trim_end().len());
    text
}

/// What fits into `most` columns, with an ellipsis as the last of them.
fn cut(cell: &str, most: usize) -> String {
    let mut left = most.saturating_sub(1);
    let fits = |c: &char| {
        let width = c.width().unwrap_or(0);
        let fits = width <= left;
        left = left.saturating_sub(width);
        fits
    };
    cell.chars().take_while(fits).chain(['…']).collect()
}

/// The same without control characters and those that change the direction of text.
fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_control() => '\u{fffd}',
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_with_characters_of_any_width() {
        let rows = vec![
            vec!["a".into(), "1".into()],
            vec!["ключ".into(), "2".into()],
            vec!["鍵".into(), String::new()],
        ];
        let table = Table::new(vec!["NAME", "N"], rows, "nothing");
        let plain = anstream::adapter::strip_str(&table.render(None)).to_string();
        assert_eq!(plain, "NAME  N\na     1\nключ  2\n鍵\n");
        assert_eq!(Table::new(vec!["NAME"], Vec::new(), "nothing").render(None), "nothing\n");
    }

    #[test]
    fn the_last_column_of_a_list_is_cut_to_fit_the_terminal() {
        let rows = vec![vec!["a".into(), "env=prod,team=鍵鍵鍵鍵".into()], vec!["b".into(), "x".into()]];
        let table = Table::new(vec!["NAME", "TAGS"], rows, "");
        let plain = |width| anstream::adapter::strip_str(&table.render(width)).to_string();
        assert_eq!(plain(Some(23)), "NAME  TAGS\na     env=prod,team=鍵…\nb     x\n");
        assert_eq!(plain(Some(5)), "NAME  TAGS\na     env=prod,te…\nb     x\n");
        assert_eq!(plain(Some(80)), plain(None));
        assert!(plain(None).contains("鍵鍵鍵鍵"), "whole without a terminal");
    }

    #[test]
    fn a_cell_cannot_paint_the_terminal() {
        let table = Table::fields(vec![("description", "\u{1b}[31mred\u{202e}\nname  forged".into())]);
        let text = table.render(None);
        assert_eq!(text.lines().count(), 1);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
    }
}
