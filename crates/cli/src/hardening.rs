//! Process hardening: no core dumps, since this process holds API keys and values in clear text.
//!
//! A program that is started in the place of this one gets back what this one was started with.

#[cfg(unix)]
pub(crate) use unix::{apply, undo};

#[cfg(unix)]
mod unix {
    use std::sync::OnceLock;

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    static INHERITED: OnceLock<Rlimit> = OnceLock::new();

    /// Switches core dumps off. What the system does not allow is left as it is.
    pub(crate) fn apply() {
        let inherited = INHERITED.get_or_init(|| getrlimit(Resource::Core));
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: inherited.maximum });
        // A core handler that is a program does not heed the limit. The system resets this when a program is started.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    }

    /// Restores the limit that this process was started with.
    pub(crate) fn undo() {
        if let Some(inherited) = INHERITED.get() {
            let _ = setrlimit(Resource::Core, *inherited);
        }
    }
}

/// Elsewhere there are no core dumps to switch off.
#[cfg(not(unix))]
pub(crate) fn apply() {}

#[cfg(not(unix))]
pub(crate) fn undo() {}
