//! The programs that steps and tests call. Missing ones are installed through their ordinary clients.

use anyhow::{Context, Result, bail};

use crate::process::{Workspace, is_in_path};
use crate::step::Outcome;

/// A program, and the Debian package that has it.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

/// The programs that the tests call. A C compiler is not listed, because this program cannot be linked without one.
const PROGRAMS: &[Program] = &[
    Program { name: "bash", package: "bash" },
    Program { name: "curl", package: "curl" },
    Program { name: "haproxy", package: "haproxy" },
    Program { name: "openssl", package: "openssl" },
    Program { name: "pg_ctl", package: "postgresql" },
    Program { name: "systemd-analyze", package: "systemd" },
];

/// The folder of PostgreSQL's programs on Debian, with a folder for each version. It is not in the `PATH`.
const POSTGRES: &str = "/usr/lib/postgresql";

/// The components of the toolchain that `cargo build` does not need, and a program of each.
const COMPONENTS: &[(&str, &str)] = &[("rustfmt", "cargo-fmt"), ("clippy", "cargo-clippy")];

/// The step: installs all missing programs.
///
/// # Errors
/// When a program is missing and cannot be installed. The message has the manual command.
pub(crate) fn provide(workspace: &Workspace) -> Result<Outcome> {
    let components: Vec<_> = COMPONENTS
        .iter()
        .filter(|(_, program)| !is_in_path(program))
        .map(|(component, _)| *component)
        .collect();
    if !components.is_empty() {
        let arguments = [&["component", "add"], components.as_slice()].concat();
        workspace.program("rustup", &arguments).run().context("the toolchain lacks components")?;
    }
    let packages = install_missing(workspace, PROGRAMS)?;
    let installed = [components, packages].concat();
    Ok(Outcome::Passed(if installed.is_empty() {
        "nothing was missing".to_owned()
    } else {
        format!("installed {}", installed.join(", "))
    }))
}

fn is_there(program: &str) -> bool {
    let mut folders = std::fs::read_dir(POSTGRES).into_iter().flatten().flatten();
    is_in_path(program) || folders.any(|folder| folder.path().join("bin").join(program).is_file())
}

/// Installs the programs that are not in the `PATH`. Returns their packages.
///
/// # Errors
/// As [`provide`].
pub(crate) fn install_missing(workspace: &Workspace, programs: &[Program]) -> Result<Vec<&'static str>> {
    let packages: Vec<_> =
        programs.iter().filter(|program| !is_there(program.name)).map(|program| program.package).collect();
    if !packages.is_empty() {
        install(workspace, &packages)?;
    }
    Ok(packages)
}

fn install(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    let by_hand = format!("run `apt-get install {}` as root", packages.join(" "));
    if !is_in_path("apt-get") {
        bail!("missing: {}; install them with this system's package manager", packages.join(", "));
    }
    let user = workspace.program("id", &["-u"]).output()?;
    let prefix: &[&str] = match String::from_utf8_lossy(&user).trim() {
        "0" => &[],
        _ if is_in_path("sudo") => &["sudo", "-n"],
        _ => bail!("missing: {}; {by_hand}", packages.join(", ")),
    };
    for command in [&["apt-get", "update", "-qq"][..], &["apt-get", "install", "-y", "-qq"][..]] {
        let mut line = [prefix, command].concat();
        if command.contains(&"install") {
            line.extend(packages);
        }
        let (program, arguments) = line.split_first().context("a command has a name")?;
        workspace
            .program(program, arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .run()
            .with_context(|| by_hand.clone())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_tool_is_not_installed_again() {
        let workspace = Workspace::find().expect("a workspace");
        match provide(&workspace).expect("the test command has run this before") {
            Outcome::Passed(note) => assert_eq!(note, "nothing was missing"),
            Outcome::NotChecked(why) => panic!("{why}"),
        }
    }
}
