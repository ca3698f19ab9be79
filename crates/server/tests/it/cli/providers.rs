//! The main use case: the provider keys of a real `.env` imported, listed, rotated, run with, read back.

use std::io::BufRead as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use super::{Setup, file};

/// A dozen keys in the formats of providers, in a file as it looks after a year of use.
const PROVIDERS: &str = r#"# LLM providers, production
OPENAI_API_KEY=sk-proj-T3BlbkFJabcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJ
OPENAI_ORG_ID=org-AbCdEfGhIjKlMnOpQrStUvWx
ANTHROPIC_API_KEY="sk-ant-api03-AbCd_EfGh-IjKl_MnOpQrStUvWxYz0123456789-AAAAAA"

export GEMINI_API_KEY=AIzaSyAbCdEfGhIjKlMnOpQrStUvWxYz012345
MISTRAL_API_KEY='m1strAl$ecret#with!signs'
COHERE_API_KEY=co-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789   # trial, ends in May
GROQ_API_KEY=gsk_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789abcdefghijklmnop
AZURE_OPENAI_API_KEY=0123456789abcdef0123456789abcdef
AZURE_OPENAI_ENDPOINT=https://example.openai.azure.com/?api-version=2024-10-21&x=y
AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE
AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
VERTEX_CREDENTIALS="{\"type\": \"service_account\",\n \"private_key\": \"-----BEGIN PRIVATE KEY-----\\n\"}"
TOGETHER_API_KEY=
"#;

/// The values that a shell reads from the file, for the less simple lines.
const VALUES: &[(&str, &str)] = &[
    ("OPENAI_API_KEY", "sk-proj-T3BlbkFJabcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJ"),
    ("ANTHROPIC_API_KEY", "sk-ant-api03-AbCd_EfGh-IjKl_MnOpQrStUvWxYz0123456789-AAAAAA"),
    ("GEMINI_API_KEY", "AIzaSyAbCdEfGhIjKlMnOpQrStUvWxYz012345"),
    ("MISTRAL_API_KEY", "m1strAl$ecret#with!signs"),
    ("COHERE_API_KEY", "co-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"),
    ("AZURE_OPENAI_ENDPOINT", "https://example.openai.azure.com/?api-version=2024-10-21&x=y"),
    (
        "VERTEX_CREDENTIALS",
        "{\"type\": \"service_account\",\n \"private_key\": \"-----BEGIN PRIVATE KEY-----\\n\"}",
    ),
];

#[test]
fn a_dozen_provider_keys_are_imported_listed_rotated_run_with_and_read_back() {
    let setup = Setup::new();
    let (_dir, path) = file("providers.env", PROVIDERS);
    let import = ["secret", "import", &path, "--realm", "llm-keys", "--tag", "env=prod"];
    let dry = setup.run(&[&import[..], &["--dry-run"]].concat()).done();
    assert!(dry.contains("would create"), "{dry}");
    let list = ["api", "secret", "list", "--realm", "llm-keys"];
    assert_eq!(setup.run(&list).done(), "no secrets\n", "a dry run stores nothing");

    let report = setup.run(&import).done();
    assert!(report.ends_with("realm llm-keys: 12 created, 1 skipped\n"), "{report}");
    let listed = setup.run(&list).done();
    assert_eq!(listed.lines().count(), 13, "{listed}");
    assert!(
        listed.lines().skip(1).all(|line| line.contains(" system ") && line.ends_with("env=prod")),
        "{listed}"
    );
    for (name, value) in VALUES {
        let get = ["api", "secret", "secret-value", "get", name, "--realm", "llm-keys"];
        assert_eq!(setup.run(&get).done(), *value, "{name}");
        assert!(!report.contains(value) && !listed.contains(value), "{name}: its value is shown");
    }

    let rotate =
        ["api", "secret", "rotate", "OPENAI_API_KEY", "--realm", "llm-keys", "--new-value-file", "-"];
    let rotated = setup.run_with(&rotate, "sk-proj-second\n").done();
    assert!(rotated.lines().any(|line| line.split_whitespace().eq(["version", "2"])), "{rotated}");
    let again = setup.run(&import);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.out.ends_with("realm llm-keys: 11 unchanged, 1 kept, 1 skipped\n"), "{again:?}");
    let replaced = setup.run(&[&import[..], &["--replace"]].concat()).done();
    assert!(replaced.ends_with("realm llm-keys: 1 updated, 11 unchanged, 1 skipped\n"), "{replaced}");
    setup.run_with(&rotate, "sk-proj-second\n").done();

    let run = |command: &[&str]| {
        setup.run(&[&["secret", "run", "--realm", "llm-keys", "--all", "--"], command].concat())
    };
    let env = run(&["env", "-0"]).done();
    let seen: Vec<&str> = env.split('\0').collect();
    assert!(seen.contains(&"OPENAI_API_KEY=sk-proj-second"), "{seen:?}");
    for (name, value) in &VALUES[1..] {
        assert!(seen.contains(&&*format!("{name}={value}")), "{name}");
    }
    let script = r#"printf '%s' "$AWS_SECRET_ACCESS_KEY"; exit 42"#;
    let ran = run(&["sh", "-c", script]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (Some(42), "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        "{ran:?}"
    );

    let written = setup.server.written();
    for value in VALUES.iter().map(|(_, value)| *value).chain(["sk-proj-second"]) {
        assert!(!written.contains(value), "a value was written down");
    }
}

#[test]
fn signals_and_the_exit_status_are_those_of_the_command() {
    let setup = Setup::new();
    setup.secret(&["create", "key", "--value", "v"]);
    let run = |script| {
        let mut command =
            setup.command(&["secret", "run", "--realm", "mcp", "--all", "--", "sh", "-c", script]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    };
    assert_eq!(run("kill -KILL $$").status().expect("tare runs").signal(), Some(9));
    let mut child = run("trap 'echo \"caught $key\"; exit 9' TERM; echo ready; while :; do sleep 0.05; done")
        .spawn()
        .expect("tare starts");
    let mut out = std::io::BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("ready");
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    line.clear();
    out.read_line(&mut line).expect("a line");
    assert_eq!((line.as_str(), child.wait().expect("ends").code()), ("caught v\n", Some(9)));
}

#[test]
fn a_key_that_may_not_read_values_starts_no_command() {
    let setup = Setup::new();
    setup.secret(&["create", "key", "--value", "v"]);
    let key = setup.server.issue("admin", "secrets/read,secrets/write", &[]);
    let args = ["secret", "run", "--realm", "mcp", "--all", "--", "sh", "-c", "echo started"];
    let output = super::command(&setup.server.process.url, &key, &args).output().expect("tare runs");
    let ran = super::TareRun::of(output);
    assert_eq!((ran.code, ran.out.as_str()), (Some(4), ""), "{ran:?}");
    assert!(ran.err.contains("error: key: ") && ran.err.contains("hint: "), "{}", ran.err);
}

#[test]
fn secrets_of_another_user_are_run_with_exported_and_injected_by_name() {
    let setup = Setup::new();
    let create = |user: &str, value: &str| {
        let of = ["--realm", "app", "--user-id", user, "--value-file", "-"];
        setup.run_with(&[&["api", "secret", "create", "API_KEY"][..], &of].concat(), value).done();
    };
    create("team-a", "of-a");
    create("team-b", "of-b");
    let of_a = ["--realm", "app", "--only", "API_KEY", "--user-id", "team-a"];
    let ran = setup.run(&[&["secret", "run"][..], &of_a, &["--", "sh", "-c", "echo $API_KEY"]].concat());
    assert_eq!(ran.done(), "of-a\n");
    let (_folder, mapping) = file("mapping", "KEY=sm://app/API_KEY\n");
    let exported = setup.run(&["secret", "export", "--mapping", &mapping, "--user-id", "team-b"]);
    assert_eq!(exported.done(), "KEY=of-b\n");
    let inject = ["secret", "inject", "-", "--user-id", "team-b"];
    assert_eq!(setup.run_with(&inject, "{{ sm://app/API_KEY }}").done(), "of-b");

    let own = setup.run(&["secret", "export", "--realm", "app", "--only", "API_KEY"]);
    assert_eq!(own.code, Some(1), "the key's user has none: {own:?}");
    // A list has the secrets of the key's user alone, so it cannot choose.
    let listed = setup.run(&["secret", "export", "--realm", "app", "--all", "--user-id", "team-a"]);
    assert!(listed.code == Some(2) && listed.err.contains("--only"), "{listed:?}");
}
