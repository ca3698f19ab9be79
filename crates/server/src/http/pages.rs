//! Pages and files for people: the console, the reference, the SDKs. All of them are in the binary.

mod downloads;

use agentrouter_api::OPENAPI;
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY};

use super::respond::{HttpResponse, ResponseBody};

/// A page or file, by its path.
#[derive(Debug)]
pub(crate) struct Page {
    path: &'static str,
    content_type: &'static str,
    content: fn() -> &'static [u8],
}

const fn page(path: &'static str, content_type: &'static str, content: fn() -> &'static [u8]) -> Page {
    Page { path, content_type, content }
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const GZIP: &str = "application/gzip";

static PAGES: [Page; 11] = [
    page("/", HTML, || include_bytes!("../../assets/console.html")),
    page("/docs", HTML, || include_bytes!("../../assets/docs.html")),
    page("/assets/console.css", CSS, || include_bytes!("../../assets/console.css")),
    page("/assets/console.js", JS, || include_bytes!("../../assets/console.js")),
    page("/assets/metadata.js", JS, || include_bytes!("../../assets/metadata.js")),
    page("/assets/docs.js", JS, || include_bytes!("../../assets/docs.js")),
    page("/sdk", HTML, || downloads::PAGE.as_bytes()),
    page(downloads::GO.path, GZIP, || downloads::GO.bytes),
    page(downloads::PYTHON.path, GZIP, || downloads::PYTHON.bytes),
    page(downloads::TYPESCRIPT.path, GZIP, || downloads::TYPESCRIPT.bytes),
    page("/openapi.json", "application/json", || OPENAPI.as_bytes()),
];

/// No other origin, no inline script, no framing, no form submission.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// Two pages are the same if they are at the same path.
impl PartialEq for Page {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Page {}

impl Page {
    pub(crate) fn at(path: &str) -> Option<&'static Self> {
        PAGES.iter().find(|page| page.path == path)
    }

    pub(crate) fn response(&self) -> HttpResponse {
        let mut response = HttpResponse::new(ResponseBody::shared(Bytes::from_static((self.content)())));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(HeaderName::from_static("x-frame-options"), HeaderValue::from_static("DENY"));
        response
    }
}
