//! The code that only the start needed, out of this process's memory.
//!
//! The start runs through most of the program once: command line, settings, migrations, initialisation. Linux maps what
//! runs in steps of 64 KiB and leaves it mapped, so that two thirds of the 15 MiB of a server at rest were code that would
//! never run again. It is let go of once, when the server is ready. What runs afterwards is mapped anew from the system's
//! page cache, in a few hundred faults of a microsecond each: a server that has read 10,000 secrets then holds 3 MiB less.
//!
//! Not on the path of any request. Where there is no such `/proc` nothing is let go of.

use std::fs;

/// Unmaps the pages of code and constants, those of the shared libraries included. They come back when they are used.
pub(crate) fn let_go() {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for range in ranges(&maps) {
        range.let_go();
    }
}

/// Memory that is as in its file.
#[derive(Debug, PartialEq)]
struct Range {
    start: usize,
    len: usize,
}

/// The mappings that are private, of a file and not to be written, and of which nothing ever was: where something was
/// (relocations, before the constants became constant) there are anonymous pages, which would be lost.
fn ranges(maps: &str) -> Vec<Range> {
    let mut found = Vec::new();
    let mut candidate: Option<Range> = None;
    let mut written: Option<u64> = None;
    for line in maps.lines().chain(["end"]) {
        match line.split_once(':') {
            Some(("Anonymous" | "Swap", size)) => {
                let size = size.trim().trim_end_matches(" kB").parse().unwrap_or(1);
                written = Some(written.unwrap_or(0) + size);
            }
            Some((name, _)) if !name.contains(' ') => {}
            // The head of the next mapping.
            _ => {
                found.extend(candidate.take().filter(|_| written == Some(0)));
                (candidate, written) = (Range::parse(line), None);
            }
        }
    }
    found
}

impl Range {
    /// `START-END MODE OFFSET DEVICE INODE PATH`
    fn parse(head: &str) -> Option<Self> {
        let mut fields = head.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (mode, path) = (fields.next()?, fields.nth(3)?);
        if !path.starts_with('/') || !matches!(mode, "r-xp" | "r--p") {
            return None;
        }
        let [start, end] = [start, end].map(|address| usize::from_str_radix(address, 16).ok());
        Some(Self { start: start?, len: end?.checked_sub(start?)? })
    }

    #[expect(unsafe_code, reason = "there is no other way to unmap a page")]
    fn let_go(&self) {
        let start = std::ptr::with_exposed_provenance_mut(self.start);
        // SAFETY: all pages of the range are those of a file that is mapped to be read only. One that is let go of is
        // mapped again when it is read, with what it had.
        let _ = unsafe { rustix::mm::madvise(start, self.len, rustix::mm::Advice::LinuxDontNeed) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(head: &str, anonymous: u64) -> String {
        format!(
            "{head}\nSize:    4 kB\nRss:     4 kB\nAnonymous:   {anonymous} kB\nSwap:    0 kB\nVmFlags: rd mr\n"
        )
    }

    #[test]
    fn code_and_constants_are_let_go_of_and_nothing_that_was_written() {
        let code = "5600-5700 r-xp 004af000 fe:00 9979156    /usr/bin/agentrouter-secrets";
        let constants = "1000-2000 r--p 00000000 fe:00 1 /usr/lib/libc.so.6";
        let expected = [Range { start: 0x5600, len: 0x100 }, Range { start: 0x1000, len: 0x1000 }];
        assert_eq!(ranges(&[mapping(code, 0), mapping(constants, 0)].concat()), expected);
        assert_eq!(ranges(&[mapping(code, 4), mapping(constants, 4)].concat()), []);
        for other in [
            "1000-2000 rw-p 00000000 fe:00 1 /usr/bin/agentrouter-secrets",
            "1000-2000 rwxp 00000000 fe:00 1 /usr/bin/agentrouter-secrets",
            "1000-2000 r--s 00000000 fe:00 1 /data/secrets.db-shm",
            "7ffe0000-7ffe2000 r-xp 00000000 00:00 0 [vdso]",
            "1000-2000 r-xp 00000000 00:00 0",
        ] {
            assert_eq!(ranges(&mapping(other, 0)), [], "{other}");
        }
        assert_eq!(ranges(""), []);
    }

    #[test]
    fn the_program_goes_on_with_less_in_memory() {
        let of_files = || {
            let text = fs::read_to_string("/proc/self/status").expect("a status");
            let line = text.lines().find_map(|line| line.strip_prefix("RssFile:")).expect("a size");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
        };
        let before = of_files();
        let_go();
        let after = of_files();
        assert!(after < before, "{after} of {before} KiB");
        assert_eq!(format!("{:?}", Range::parse("1-3 r-xp 0 0:0 1 /x")), "Some(Range { start: 1, len: 2 })");
    }
}
