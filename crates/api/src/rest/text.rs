//! A text of a request: borrowed, or an owned copy that is wiped.

use std::borrow::Cow;
use std::ops::Deref;

use zeroize::Zeroize;

/// A text of a request: borrowed from it, or unescaped into a copy that is wiped when dropped. Not `Debug`, because it may be
/// a value.
pub struct Text<'a>(Cow<'a, str>);

impl Default for Text<'_> {
    /// An empty borrowed text.
    fn default() -> Self {
        Self(Cow::Borrowed(""))
    }
}

impl<'a> From<Cow<'a, str>> for Text<'a> {
    fn from(text: Cow<'a, str>) -> Self {
        Self(text)
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Drop for Text<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(copy) = &mut self.0 {
            copy.zeroize();
        }
    }
}
