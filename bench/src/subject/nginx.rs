//! The baseline: nginx with one worker and a static file of the size of the server's response.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Certificate, free_address, get, log, ready};
use crate::load::{Endpoint, Request, Wire};
use crate::process::Process;

/// A running nginx.
pub(crate) struct Nginx {
    pub(crate) process: Process,
    pub(crate) target: Endpoint,
    /// From its start to its first response.
    pub(crate) ready_in: Duration,
}

impl Nginx {
    /// Starts an nginx that serves `body`.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start(folder: &Path, name: &str, body: &[u8], tls: Option<&Certificate>) -> Result<Self> {
        let folder = folder.join(name);
        std::fs::create_dir_all(folder.join("temp"))?;
        std::fs::write(folder.join("value"), body)?;
        let address = free_address()?;
        let path = folder.join("nginx.conf");
        std::fs::write(&path, configuration(&folder, &address.to_string(), tls))?;
        let start = Instant::now();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&folder).arg("-e").arg(folder.join("nginx.log")).arg("-c").arg(&path);
        let mut process = Process::start(command.stdout(log(&folder, "nginx")?))?;
        let target =
            Endpoint { address, tls: tls.map(|certificate| certificate.trusted.clone()), wire: Wire::Http1 };
        let ready_in = ready(&mut process, start, &target, get("/value", address))?;
        Ok(Self { process, target, ready_in })
    }

    /// Its request, with as many header fields as the server's.
    pub(crate) fn request(&self, key: &str) -> Request {
        let address = self.target.address;
        let head = format!(
            "GET /value HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\r\n"
        );
        Request { head: head.into_bytes(), body: Vec::new() }
    }
}

fn configuration(folder: &Path, address: &str, tls: Option<&Certificate>) -> String {
    let (mode, certificate) = match tls {
        None => ("", String::new()),
        Some(Certificate { cert, key, .. }) => {
            (" ssl", format!("ssl_certificate {}; ssl_certificate_key {};", cert.display(), key.display()))
        }
    };
    let temp = folder.join("temp");
    let temp = temp.display();
    format!(
        "daemon off;
worker_processes 1;
pid {temp}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  client_body_temp_path {temp}/a; proxy_temp_path {temp}/b; fastcgi_temp_path {temp}/c;
  uwsgi_temp_path {temp}/d; scgi_temp_path {temp}/e;
  access_log off;
  keepalive_requests 1000000000;
  sendfile on;
  tcp_nodelay on;
  open_file_cache max=10;
  open_file_cache_valid 1h;
  default_type application/json;
  server {{ listen {address}{mode}; {certificate} root {}; }}
}}
",
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_tls_only_with_a_certificate() {
        let plain = configuration(Path::new("/there"), "127.0.0.1:1", None);
        assert!(plain.contains("listen 127.0.0.1:1;") && !plain.contains("ssl"), "{plain}");
        let dir = tempfile::tempdir().expect("a folder");
        let certificate = Certificate::make(dir.path()).expect("a certificate");
        let tls = configuration(Path::new("/there"), "127.0.0.1:1", Some(&certificate));
        assert!(tls.contains("listen 127.0.0.1:1 ssl; ssl_certificate "), "{tls}");
    }
}
