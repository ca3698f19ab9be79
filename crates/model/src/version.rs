//! The version number of a secret's value.

use std::fmt;

/// The number of a version. It starts at 1 and increases by one with every new value. A secret id never reuses one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(i32);

impl Version {
    /// The first version of a secret.
    pub const FIRST: Self = Self(1);

    /// The last number.
    pub const MAX: Self = Self(i32::MAX);

    /// A version number. `None` if `number` is less than 1.
    pub const fn new(number: i32) -> Option<Self> {
        if number >= 1 { Some(Self(number)) } else { None }
    }

    /// The number, 1 or more.
    pub const fn get(self) -> i32 {
        self.0
    }

    /// The next version. `None` after 2³¹ − 1.
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_count_from_one_and_end() {
        assert_eq!(Version::new(0), None);
        assert_eq!(Version::new(-1), None);
        assert_eq!(Version::FIRST.next(), Version::new(2));
        assert_eq!(Version::new(i32::MAX).and_then(Version::next), None);
    }
}
