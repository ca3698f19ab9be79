//! The report of a run: a table on the terminal, and a page with a chart in `docs/`.

mod chart;
mod machine;
mod page;
mod table;

pub(crate) use chart::chart;
pub(crate) use machine::describe;
pub(crate) use page::replace;
pub(crate) use table::{Table, count, footings, micros, rows};
