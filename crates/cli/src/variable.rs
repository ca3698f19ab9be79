//! Names of environment variables: how a secret's name becomes one, and which names are a credential's.

/// The variable of a secret. A name that can be a variable's stays as it is. In any other one letters become upper case,
/// `-` and `.` become `_`, and a digit in front gets a `_` before it.
pub(crate) fn of(name: &str) -> String {
    if is_identifier(name) {
        return name.to_owned();
    }
    let digit_in_front = name.starts_with(|c: char| c.is_ascii_digit());
    let variable = name.chars().map(|c| match c {
        '-' | '.' => '_',
        other => other.to_ascii_uppercase(),
    });
    digit_in_front.then_some('_').into_iter().chain(variable).collect()
}

/// Whether shells take the name for a variable: `[A-Za-z_][A-Za-z0-9_]*`.
pub(crate) fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The last words of variables that hold a credential. Whole words: `MONKEY` does not end in `KEY`.
pub(crate) const CREDENTIAL_WORDS: [&str; 12] = [
    "KEY",
    "KEYS",
    "KEY_ID",
    "APIKEY",
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASS",
    "PWD",
    "PASSPHRASE",
    "PAT",
];

/// Whether the name ends like a credential's, in any case of letters. `PASSWORD` counts without a `_` before it too, as in
/// `PGPASSWORD`.
pub(crate) fn is_credential(variable: &str) -> bool {
    let upper = variable.to_ascii_uppercase();
    upper.ends_with("PASSWORD")
        || CREDENTIAL_WORDS.iter().any(|word| {
            upper.strip_suffix(word).is_some_and(|before| before.is_empty() || before.ends_with('_'))
        })
}

/// Whether the variable is one that `tare` and the SDKs are set up with.
pub(crate) fn is_ours(variable: &str) -> bool {
    variable.to_ascii_uppercase().starts_with("AGENTROUTER_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_can_be_a_variable_stays_as_it_is() {
        for name in ["OPENAI_API_KEY", "TF_VAR_db_password", "http_proxy", "database__client", "_A", "a"] {
            assert_eq!(of(name), name);
        }
        for (name, expected) in [
            ("openai-api-key", "OPENAI_API_KEY"),
            ("spring.datasource.password", "SPRING_DATASOURCE_PASSWORD"),
            ("a.b-c_d", "A_B_C_D"),
            ("0auth-key", "_0AUTH_KEY"),
        ] {
            assert_eq!(of(name), expected);
        }
    }

    #[test]
    fn a_credential_is_recognised_by_the_last_word_of_its_name() {
        for name in [
            "OPENAI_API_KEY",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_TOKEN",
            "PGPASSWORD",
            "TF_VAR_db_password",
            "MYSQL_PWD",
            "API_KEY",
            "TOKEN",
        ] {
            assert!(is_credential(name), "{name}");
        }
        for name in [
            "MAKEFLAGS",
            "HTTPS_PROXY",
            "SSL_CERT_FILE",
            "NODE_TLS_REJECT_UNAUTHORIZED",
            "OPENAI_BASE_URL",
            "OPENSSL_MODULES",
            "LD_PRELOAD",
            "NODE_OPTIONS",
            "SSH_ASKPASS",
            "GIT_ASKPASS",
            "PATH",
            "COMPAT",
            "MONKEY",
            "SSLKEYLOGFILE",
            "GIT_CONFIG_KEY_0",
            "GOOGLE_APPLICATION_CREDENTIALS",
        ] {
            assert!(!is_credential(name), "{name}");
        }
    }

    #[test]
    fn our_own_variables_are_known_in_any_case() {
        assert!(is_ours("AGENTROUTER_BASE_URL") && is_ours("agentrouter_api_key"));
        assert!(!is_ours("MY_AGENTROUTER_KEY"));
    }
}
