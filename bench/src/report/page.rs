//! Parts of a page that a command writes, each between two markers with its name.

use std::path::Path;

use anyhow::{Context, Result};

/// Puts `text` between `<!-- NAME: begin -->` and `<!-- NAME: end -->` of the page.
///
/// # Errors
/// When the page cannot be read or written, or lacks the markers.
pub(crate) fn replace(page: &Path, name: &str, text: &str) -> Result<()> {
    let before =
        std::fs::read_to_string(page).with_context(|| format!("{} cannot be read", page.display()))?;
    let after = replaced(&before, name, text)
        .with_context(|| format!("{} lacks the markers of {name}", page.display()))?;
    std::fs::write(page, after).with_context(|| format!("{} cannot be written", page.display()))
}

fn replaced(page: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (head, rest) = page.split_once(&begin)?;
    let (_, tail) = rest.split_once(&end)?;
    Some(format!("{head}{begin}\n{}\n\n{end}{tail}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_the_markers_is_replaced_and_nothing_else() {
        let page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb <!-- y: begin -->\n";
        let once = replaced(page, "x", "new\n").expect("markers");
        assert_eq!(once, "a\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nb <!-- y: begin -->\n");
        assert_eq!(replaced(&once, "x", "new").as_deref(), Some(once.as_str()));
        assert_eq!(replaced(page, "y", "new"), None);
    }
}
