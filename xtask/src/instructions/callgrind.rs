//! Parser of callgrind's output: a file for each thread with the self cost of each function, line by line.
//!
//! ```text
//! thread: 1
//! fn=(7) name          the function of the following costs; the name is present only at the number's first use
//! 16 400               a source line, absolute or relative, and the instructions spent on it
//! cfn=(8) other        a function that is called;
//! calls=2 50           the next line has the inclusive cost of the calls, which the called functions have already
//! 16 9000
//! ```

use std::collections::HashMap;

/// The functions of waiting: the runtime, its timers and channels, and their system calls.
const WAITING: &[&str] = &[
    "tokio::",
    "std::sys::",
    "std::sync::mpmc",
    "std::thread",
    "clock_gettime",
    "epoll_",
    "pthread_",
    "__lll_",
    "futex",
    "_dl_",
];

/// The thread of a file, and its instructions without those for waiting. `None` for a file without a thread.
pub(super) fn work(text: &str) -> Option<(u64, u64)> {
    let mut thread = None;
    let mut names: HashMap<&str, &str> = HashMap::new();
    let (mut waiting, mut skip, mut work) = (false, false, 0);
    for line in text.lines() {
        if let Some(number) = line.strip_prefix("thread: ") {
            thread = number.trim().parse().ok();
        } else if let Some(function) = line.strip_prefix("fn=") {
            waiting = is_waiting(name(function, &mut names));
        } else if let Some(function) = line.strip_prefix("cfn=") {
            name(function, &mut names);
        } else if line.starts_with("calls=") {
            skip = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or(0);
            if !std::mem::take(&mut skip) && !waiting {
                work += cost;
            }
        }
    }
    Some((thread?, work))
}

/// The name of `(7) name`, or of `(7)` after its first use.
fn name<'t>(function: &'t str, names: &mut HashMap<&'t str, &'t str>) -> &'t str {
    match function.split_once(' ') {
        Some((number, name)) => {
            names.insert(number, name);
            name
        }
        None => names.get(function).copied().unwrap_or_default(),
    }
}

fn is_waiting(name: &str) -> bool {
    WAITING.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
version: 1
part: 1
thread: 2
events: Ir
fl=(1) ???
fn=(1) agentrouter_crypto::open
16 100
+2 20
cfn=(2) tokio::time::sleep
calls=3 0
16 9000
* 3
fn=(2)
5 7000
cfn=(3) memcpy
calls=1 0
-1 50
fn=(3)
0 50
totals: 7173
";

    #[test]
    fn work_is_each_function_s_own_cost_without_that_of_waiting() {
        assert_eq!(work(FILE), Some((2, 100 + 20 + 3 + 50)));
        assert_eq!(work("version: 1\ntotals: 5\n"), None);
    }

    #[test]
    fn functions_of_the_runtime_wait_and_all_others_work() {
        for waiting in
            ["<tokio::time::Timeout<T> as Future>::poll", "clock_gettime@@GLIBC_2.17", "epoll_wait"]
        {
            assert!(is_waiting(waiting), "{waiting}");
        }
        for working in [
            "sqlite3VdbeExec",
            "agentrouter_service::audit_records::{{closure}}",
            "malloc",
            "serde_json::ser",
        ] {
            assert!(!is_waiting(working), "{working}");
        }
    }
}
