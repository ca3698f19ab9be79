//! A run as people read it: a table on the terminal, a page with a chart in `docs/`.

mod chart;
mod machine;
mod page;
mod table;

pub(crate) use chart::chart;
pub(crate) use machine::describe;
pub(crate) use page::replace;
pub(crate) use table::{Table, count, footings, micros, rows};
