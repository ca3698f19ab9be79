//! The seven RPCs, and the three output formats.

use super::{Setup, file};

/// A value of YAML as flat as ours, by its path: `secret.tags.env`.
fn yaml<'a>(text: &'a str, path: &str) -> Option<&'a str> {
    let mut depth = 0;
    let mut keys: Vec<&str> = path.split('.').collect();
    keys.reverse();
    for line in text.lines() {
        let (key, value) = line.trim_start().split_once(':')?;
        let indent = line.len() - line.trim_start().len();
        if indent == depth && keys.last() == Some(&key) {
            keys.pop();
            depth += 2;
            if keys.is_empty() {
                return Some(value.trim().trim_matches(['"', '\'']));
            }
        }
    }
    None
}

#[test]
fn a_value_comes_from_a_file_or_standard_input_or_the_command_line() {
    let setup = Setup::new();
    let (_dir, path) = file("key", "sk-from-file\n");
    setup
        .secret(&["create", "file", "--value-file", &path, "--description", "d", "--tag", "env=prod"])
        .done();
    let create = ["api", "secret", "create", "stdin", "--realm", "mcp", "--value-file", "-"];
    let created = setup.run_with(&create, "sk-from-stdin").done();
    assert!(created.lines().any(|line| line.split_whitespace().eq(["version", "1"])), "{created}");
    let ran = setup.secret(&["create", "flag", "--value", "sk-from-flag"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.starts_with("warning: --value stays in the shell's history"), "{}", ran.err);
    assert!(!ran.err.contains("sk-from-flag") && !ran.out.contains("sk-from-flag"), "{ran:?}");
    for name in ["file", "stdin", "flag"] {
        assert_eq!(setup.secret(&["secret-value", "get", name]).done(), format!("sk-from-{name}"));
    }
    let kept = ["api", "secret", "create", "kept", "--realm", "mcp", "--value-file", "-", "--keep-newline"];
    setup.run_with(&kept, "line\n").done();
    assert_eq!(setup.secret(&["secret-value", "get", "kept"]).done(), "line\n", "byte for byte");

    let (_dir, path) = file("key", "sk-next");
    setup.secret(&["rotate", "file", "--new-value-file", &path, "--grace-period", "1h"]).done();
    assert_eq!(setup.secret(&["secret-value", "get", "file"]).done(), "sk-next");
    assert_eq!(setup.secret(&["secret-value", "get", "file", "--version", "1"]).done(), "sk-from-file");
}

#[test]
fn json_is_the_body_of_the_rest_response() {
    let setup = Setup::new();
    let server = &setup.server;
    setup.secret(&["create", "n", "--value", "sk-1", "--tag", "env=prod", "--tag", "a/b=c d"]);
    setup.secret(&["create", "m", "--value", "sk-2", "--description", "the \"other\" – one"]);
    let json = |args: &[&str]| {
        let out = setup.secret(&[args, &["-o", "json"]].concat()).done();
        out.strip_suffix('\n').expect("a line").to_owned()
    };
    assert_eq!(json(&["get", "n"]), server.call("GET", "/v1/secrets/n?realm=mcp", "").body);
    assert_eq!(json(&["get", "m"]), server.call("GET", "/v1/secrets/m?realm=mcp", "").body);
    assert_eq!(json(&["list"]), server.call("GET", "/v1/secrets?realm=mcp", "").body);
    assert_eq!(
        json(&["list", "--tag", "env=prod", "--page-size", "1", "--status", "any"]),
        server.call("GET", "/v1/secrets?realm=mcp&tags%5Benv%5D=prod&page_size=1&status=any", "").body
    );
    let named = r#"{"realm":"mcp"}"#;
    assert_eq!(json(&["validate", "n"]), server.call("POST", "/v1/secrets/n/validate", named).body);
    let value = server.call("POST", "/v1/secrets/n/value", named).body;
    assert_eq!(json(&["secret-value", "get", "n"]), value);
    let rotate = ["api", "secret", "rotate", "n", "--realm", "mcp", "--new-value-file", "-", "-o", "json"];
    let rotated = setup.run_with(&rotate, "sk-3").done();
    assert_eq!(
        rotated.trim_end(),
        server.call("GET", "/v1/secrets/n?realm=mcp", "").body,
        "what is there now"
    );
    let create = ["api", "secret", "create", "odd", "--realm", "mcp", "--value-file", "-", "-o", "json"];
    let every: String = ('\u{1}'..'\u{a0}').chain("<>&/\u{2028}é🔑".chars()).collect();
    setup.run_with(&create, &every).done();
    assert_eq!(
        json(&["secret-value", "get", "odd"]),
        server.call("POST", "/v1/secrets/odd/value", named).body,
        "escape by escape"
    );
    assert_eq!(json(&["delete", "n", "--yes"]), r#"{"success":true}"#);
    assert_eq!(server.call("GET", "/v1/secrets/n?realm=mcp", "").status, 404);
}

#[test]
fn yaml_has_the_same_content_and_a_table_has_the_main_fields() {
    let setup = Setup::new();
    setup.secret(&["create", "n", "--value", "sk-1", "--tag", "env=prod", "--description", "a: b"]);
    let out = setup.secret(&["get", "n", "-o", "yaml"]).done();
    for (path, value) in [
        ("secret.name", "n"),
        ("secret.realm", "mcp"),
        ("secret.user_id", "admin"),
        ("secret.tags.env", "prod"),
        ("secret.status", "active"),
        ("secret.version", "1"),
        ("secret.description", "a: b"),
    ] {
        assert_eq!(yaml(&out, path), Some(value), "{path}: {out}");
    }
    let value = setup.secret(&["secret-value", "get", "n", "-o", "yaml"]).done();
    assert_eq!(yaml(&value, "value"), Some("sk-1"), "{value}");
    assert_eq!(yaml(&setup.secret(&["validate", "n", "-o", "yaml"]).done(), "valid"), Some("true"));

    let table = setup.secret(&["get", "n"]).done();
    for field in [["name", "n"], ["tags", "env=prod"], ["status", "active"], ["version", "1"]] {
        assert!(table.lines().any(|line| line.split_whitespace().eq(field)), "{field:?}: {table}");
    }
    let list = setup.secret(&["list"]).done();
    let mut lines = list.lines();
    assert!(
        lines.next().is_some_and(|line| line.starts_with("NAME  REALM  USER_ID  VERSION  STATUS")),
        "{list}"
    );
    assert!(
        lines.next().is_some_and(|line| line.starts_with("n     mcp    admin    1        active")),
        "{list}"
    );
    assert_eq!(setup.secret(&["validate", "n"]).done(), "valid  true\n");
    assert_eq!(setup.secret(&["delete", "n", "--yes"]).done(), "deleted  n\n");
    assert_eq!(setup.secret(&["list"]).done(), "no secrets\n");
}

#[test]
fn all_returns_every_page_of_a_long_list() {
    let setup = Setup::new();
    let text: String = (0..30).map(|i| format!("KEY_{i:02}=value-{i}\n")).collect();
    let (_dir, path) = file("many.env", &text);
    setup.run(&["secret", "import", &path, "--realm", "mcp"]).done();
    let page = setup.secret(&["list", "--page-size", "7"]);
    assert_eq!(page.out.lines().count(), 8, "{page:?}");
    assert!(
        page.err.starts_with("hint: there are more") && page.err.contains("--page-token "),
        "{}",
        page.err
    );
    let token =
        page.err.split("--page-token ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a token");
    let next = setup.secret(&["list", "--page-size", "7", "--page-token", token]);
    assert!(next.out.contains("KEY_07 ") && !next.out.contains("KEY_06 "), "{next:?}");
    let all = setup.secret(&["list", "--page-size", "7", "--all"]).done();
    let names: Vec<&str> = all.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    let expected: Vec<String> = (0..30).map(|i| format!("KEY_{i:02}")).collect();
    assert_eq!(names, expected);
}
