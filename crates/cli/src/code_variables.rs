//! Variables that make a program run other code than its own. A caller that may write to a realm could otherwise run code
//! as the user who runs a command with its secrets. The list is never complete; see `selection` for the rule that does not
//! depend on it.
//!
//! Whole names, not families: `NODE_ENV` and `GIT_TOKEN` are settings like others. Where there is a family, it is that of
//! the dynamic loader, or one of which every member counts.

/// The names, sorted.
const NAMES: [&str; 51] = [
    "BASHOPTS",
    "BASH_ENV",
    "BROWSER",
    "CLASSPATH",
    "DOTNET_STARTUP_HOOKS",
    "EDITOR",
    "GCONV_PATH",
    "GIT_ASKPASS",
    "GIT_EDITOR",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_DIFF",
    "GIT_PAGER",
    "GIT_PROXY_COMMAND",
    "GIT_SEQUENCE_EDITOR",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_TEMPLATE_DIR",
    "HOME",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LESSCLOSE",
    "LESSOPEN",
    "LUA_INIT",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_REPL_EXTERNAL_MODULE",
    "OPENSSL_CONF",
    "OPENSSL_ENGINES",
    "PAGER",
    "PATH",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PERLLIB",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PROMPT_COMMAND",
    "PS4",
    "PYTHONBREAKPOINT",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "RUBYLIB",
    "RUBYOPT",
    "SHELL",
    "SHELLOPTS",
    "SSH_ASKPASS",
    "VISUAL",
    "ZDOTDIR",
];

const BEGINNINGS: [&str; 3] = ["LD_", "DYLD_", "GIT_CONFIG"];

/// Whether the variable does so with any value.
pub(crate) fn runs_code(variable: &str) -> bool {
    NAMES.binary_search(&variable).is_ok()
        || BEGINNINGS.iter().any(|beginning| variable.starts_with(beginning))
}

/// Whether it does so with that value. `ENV` names a file that an interactive shell runs, after expanding it; as one plain
/// word (`production`) many programs name their environment with it.
pub(crate) fn runs_code_by_value(variable: &str, value: &str) -> bool {
    variable == "ENV" && !value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_make_a_program_run_other_code_are_known() {
        assert!(NAMES.is_sorted(), "the search is binary");
        for name in ["PATH", "LD_PRELOAD", "DYLD_INSERT_LIBRARIES", "NODE_OPTIONS", "PYTHONPATH", "BASH_ENV"]
        {
            assert!(runs_code(name), "{name}");
        }
        for name in ["GIT_SSH", "GIT_SSH_COMMAND", "GIT_CONFIG_COUNT", "GIT_ASKPASS", "PERL5OPT", "RUBYOPT"] {
            assert!(runs_code(name), "{name}");
        }
    }

    #[test]
    fn ordinary_names_of_env_files_are_accepted() {
        for name in [
            "NODE_ENV",
            "GIT_TOKEN",
            "GIT_AUTHOR_NAME",
            "PYTHON_VERSION",
            "PYTHONUNBUFFERED",
            "AGENTROUTER_API_KEY",
            "AGENTROUTER_BASE_URL",
            "PATHOLOGY_KEY",
            "HOMEBREW_TOKEN",
            "OLD_KEY",
            "ENV",
        ] {
            assert!(!runs_code(name), "{name}");
        }
    }

    #[test]
    fn env_is_accepted_as_a_word_and_not_as_a_file() {
        for value in ["production", "prod-eu_1", "dev"] {
            assert!(!runs_code_by_value("ENV", value), "{value}");
        }
        for value in ["/tmp/x", "./x", "$(touch x)", "x.sh", "$HOME", "~"] {
            assert!(runs_code_by_value("ENV", value), "{value}");
        }
        assert!(!runs_code_by_value("NODE_ENV", "/tmp/x"));
    }
}
