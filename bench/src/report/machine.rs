//! The machine of a run.

use std::path::Path;
use std::process::Command;

use crate::subject::Programs;

/// The properties that affect the results, one per line.
pub(crate) fn describe(scratch: &Path, programs: &Programs) -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = field(&cpuinfo, "model name");
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let meminfo = read("/proc/meminfo");
    let gib = field(&meminfo, "MemTotal");
    let gib = gib.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0).div_ceil(1 << 20);
    let system = read("/etc/os-release");
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    let folder = scratch.to_string_lossy();
    let load = read("/proc/loadavg");
    let mut lines = vec![
        format!("{cores} × {model}, {gib} GiB; the server on one core, the generator on another"),
        format!(
            "{}, Linux {}, files on {}",
            system.trim_matches('"'),
            // Without the name of a build host.
            said("uname", &["-r"]).split('-').next().unwrap_or_default(),
            said("findmnt", &["-no", "FSTYPE", "-T", &folder])
        ),
        format!(
            "{}; {}; {}",
            said(&programs.server.to_string_lossy(), &["--version"]),
            said("rustc", &["--version"]),
            said("nginx", &["-v"])
        ),
        format!("on {}", said("date", &["-u", "+%Y-%m-%d"])),
    ];
    lines.extend(busy(&load));
    lines
}

/// A warning if other processes used the machine during the minute before the run.
fn busy(loadavg: &str) -> Option<String> {
    let load: f64 = loadavg.split(' ').next()?.parse().ok()?;
    (load > 1.0).then(|| {
        format!("**others used the machine** (load {load:.1} before the run): these figures show that it runs, and no more")
    })
}

/// The first line of a program's output. Empty if it cannot be run.
fn said(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else { return String::new() };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}

/// The text after `name :` in a file of `/proc`.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_name() {
        let text = "processor\t: 0\nmodel name\t: A B\nMemTotal:  12 kB\n";
        assert_eq!((field(text, "model name"), field(text, "MemTotal")), ("A B", "12 kB"));
        assert_eq!(field(text, "absent"), "");
    }

    #[test]
    fn a_machine_that_others_use_is_reported() {
        assert!(busy("4.87 2.00 1.00 3/300 12345\n").is_some_and(|line| line.contains("load 4.9")));
        assert_eq!(busy("0.50 9.00 9.00 1/300 12345\n"), None);
        assert_eq!(busy(""), None);
    }

    #[test]
    fn the_processor_is_described_although_a_program_is_absent() {
        let programs = Programs { server: "/no/such".into(), toy: "/no/such".into() };
        let lines = describe(Path::new("/tmp"), &programs);
        assert!(!lines[0].starts_with('0') && lines[0].contains(" × "), "{lines:?}");
    }
}
