//! The SDK page and the tarballs that `cargo xtask sdk` builds into the binary.

use std::sync::LazyLock;

/// One tarball, and its part of the page.
pub(super) struct Download {
    /// Its name in the page's template.
    language: &'static str,
    /// Its path on the server.
    pub(super) path: &'static str,
    /// The tarball itself.
    pub(super) bytes: &'static [u8],
    example: &'static str,
}

macro_rules! download {
    ($language:literal, $example:literal) => {{
        const PATH: &str = concat!("/sdk/agentrouter-", $language, "-", env!("CARGO_PKG_VERSION"), ".tar.gz");
        Download {
            language: $language,
            path: PATH,
            bytes: include_bytes!(concat!(
                "../../../assets/sdk/agentrouter-",
                $language,
                "-",
                env!("CARGO_PKG_VERSION"),
                ".tar.gz"
            )),
            example: include_str!(concat!("../../../assets/sdk-examples/", $example)),
        }
    }};
}

/// For Go.
pub(super) const GO: Download = download!("go", "main.go");
/// For Python.
pub(super) const PYTHON: Download = download!("python", "main.py");
/// For TypeScript and JavaScript.
pub(super) const TYPESCRIPT: Download = download!("typescript", "index.ts");

/// `sha256sum`'s lines, one for each tarball.
const SUMS: &str = include_str!("../../../assets/sdk/SHA256SUMS");

/// `/sdk`
pub(super) static PAGE: LazyLock<String> = LazyLock::new(|| {
    let mut page = include_str!("../../../assets/sdk.html").replace("{version}", env!("CARGO_PKG_VERSION"));
    for download in [GO, PYTHON, TYPESCRIPT] {
        let file = download.path.trim_start_matches("/sdk/");
        let sum = SUMS.lines().find_map(|line| line.strip_suffix(file)).unwrap_or_default().trim();
        for (name, text) in [
            ("file", file),
            ("stem", file.trim_end_matches(".tar.gz")),
            ("size", &format!("{} KiB", download.bytes.len().div_ceil(1024))),
            ("sum", sum),
            ("example", &escape(download.example)),
        ] {
            page = page.replace(&format!("{{{}.{name}}}", download.language), text);
        }
    }
    page
});

fn escape(text: &str) -> String {
    text.trim_end().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_no_placeholder_left() {
        for download in [GO, PYTHON, TYPESCRIPT] {
            assert!(PAGE.contains(&format!("href=\"{}\"", download.path)), "{}", download.path);
            assert!(!PAGE.contains(&format!("{{{}.", download.language)), "{}", download.language);
            assert!(download.bytes.starts_with(&[0x1f, 0x8b]), "{}", download.path);
        }
        assert_eq!(PAGE.matches("<td class=\"free\"><code></code>").count(), 0, "each has its checksum");
    }
}
