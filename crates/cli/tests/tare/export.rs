//! `tare secret export` and `inject`, and the way from a `.env` file back to one.

use std::os::unix::fs::MetadataExt as _;

use crate::fake::{Fake, INTERNAL};
use crate::{command, file, refused, run, said, store, tare, text};

const ENV: &str = "\
OPENAI_API_KEY=sk-proj-1
TF_VAR_db_password='p#w $HOME `id` \\n'
export http_proxy=http://p:1 # a proxy
database__client: mysql
spring.datasource.password=\"it's \\\"so\\\"\"
_AIRFLOW_WWW_USER_PASSWORD=#Xy7!
CERT=\"-----BEGIN
line
-----END\"
";

/// The environment that the file means.
const VALUES: [(&str, &str); 7] = [
    ("CERT", "-----BEGIN\nline\n-----END"),
    ("OPENAI_API_KEY", "sk-proj-1"),
    ("TF_VAR_db_password", "p#w $HOME `id` \\n"),
    ("_AIRFLOW_WWW_USER_PASSWORD", "#Xy7!"),
    ("database__client", "mysql"),
    ("http_proxy", "http://p:1"),
    ("spring.datasource.password", "it's \"so\""),
];

fn environment(url: &str, realm: &str) -> Vec<(String, String)> {
    let arguments = ["secret", "run", "--realm", realm, "--all", "--keep-names", "--", "env", "-0"];
    let output = run(
        command(url, &arguments).env_clear().envs([
            ("AGENTROUTER_BASE_URL", url),
            ("AGENTROUTER_API_KEY", crate::fake::KEY),
            ("PATH", &std::env::var("PATH").expect("a PATH")),
        ]),
        "",
    );
    let stdout = text(&output.stdout);
    let pairs = stdout.split('\0').filter_map(|pair| pair.split_once('='));
    let mut pairs: Vec<(String, String)> = pairs
        .filter(|(name, _)| *name != "PATH" && !name.starts_with("AGENTROUTER_"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    pairs.sort();
    pairs
}

#[test]
fn a_file_comes_back_as_the_same_environment() {
    let url = Fake::start();
    let expected = VALUES.map(|(name, value)| (name.to_owned(), value.to_owned()));
    said(&url, &["secret", "import", "-", "--realm", "r"], ENV);
    assert_eq!(environment(&url, "r"), expected);
    let exported = said(&url, &["secret", "export", "--realm", "r", "--all", "--keep-names"], "");
    said(&url, &["secret", "import", "-", "--realm", "s"], &exported);
    assert_eq!(environment(&url, "s"), expected, "{exported}");
    let again = said(&url, &["secret", "export", "--realm", "s", "--all", "--keep-names"], "");
    assert_eq!(again, exported);
}

#[test]
fn an_export_has_a_form_for_shells_and_for_programs() {
    let url = Fake::start();
    store(&url, "r", "openai-api-key", "it's $1");
    store(&url, "r", "HTTPS_PROXY", "evil");
    let export = |flags: &[&str]| {
        let output = tare(&url, &[&["secret", "export", "--realm", "r"], flags].concat(), "");
        assert!(text(&output.stderr).contains("left out"), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(export(&[]), "OPENAI_API_KEY=\"it's \\$1\"\n");
    assert_eq!(export(&["--shell"]), "export OPENAI_API_KEY='it'\\''s $1'\n");
    assert_eq!(export(&["-o", "json"]), "{\"OPENAI_API_KEY\":\"it's $1\"}\n");
    refused(&url, &["secret", "export", "--realm", "r", "--shell", "-o", "yaml"], 2);
    let kept = ["secret", "export", "--realm", "r", "--only", "openai-api-key", "--keep-names", "--shell"];
    assert!(refused(&url, &kept, 2).contains("a shell has no variable"));
}

#[test]
fn a_file_with_secrets_is_private_and_not_replaced_unasked() {
    let url = Fake::start();
    store(&url, "r", "A_KEY", "v");
    let (folder, path) = file("old", "old");
    let stderr = refused(&url, &["secret", "export", "--realm", "r", "--out", &path], 2);
    assert!(stderr.contains("--force"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&path).expect("readable"), "old");
    said(&url, &["secret", "export", "--realm", "r", "--out", &path, "--force"], "");
    assert_eq!(std::fs::read_to_string(&path).expect("readable"), "A_KEY=v\n");
    assert_eq!(std::fs::metadata(&path).expect("a file").mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

#[test]
fn a_template_is_filled_with_a_key_that_may_only_read_values() {
    let url = Fake::start();
    store(&url, "r", "a", "v-1");
    let inject = |template: &str| {
        let mut command = command(&url, &["secret", "inject", "-"]);
        run(command.env("AGENTROUTER_API_KEY", INTERNAL), template)
    };
    let output = inject("x: {{ sm://r/a }}, {{ .Values.y }}, {{sm://r/a#1}}\n");
    assert_eq!(text(&output.stdout), "x: v-1, {{ .Values.y }}, v-1\n", "{}", text(&output.stderr));
    let output = inject("x: {{ sm://r/absent }}\n");
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    let output = inject("x: {{ sm://r }}\n");
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""));
}
