//! What people look at: the console, the reference, and the files they need. All of it is in the binary.

use agentrouter_api::OPENAPI;
use http::Response;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY};

use super::body::Answer;

/// A page or file, by its path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const fn page(path: &'static str, content_type: &'static str, text: &'static str) -> Page {
    Page { path, content_type, text }
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

static PAGES: [Page; 6] = [
    page("/", HTML, include_str!("../../assets/console.html")),
    page("/docs", HTML, include_str!("../../assets/docs.html")),
    page("/assets/console.css", CSS, include_str!("../../assets/console.css")),
    page("/assets/console.js", JS, include_str!("../../assets/console.js")),
    page("/assets/docs.js", JS, include_str!("../../assets/docs.js")),
    page("/openapi.json", "application/json", OPENAPI),
];

/// Nothing from elsewhere, nothing inline, no frame around it, no form that leaves.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

impl Page {
    pub(crate) fn at(path: &str) -> Option<&'static Self> {
        PAGES.iter().find(|page| page.path == path)
    }

    pub(crate) fn answer(&self) -> Response<Answer> {
        let mut response = Response::new(Answer::new(self.text.as_bytes()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(HeaderName::from_static("x-frame-options"), HeaderValue::from_static("DENY"));
        response
    }
}
