//! `serve`: from the settings to a running server and back.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentrouter_crypto::SystemRng;
use agentrouter_instance::admin::AdminSocket;
use agentrouter_instance::instance::{AUDIT, BOOTSTRAP, Instance, SOCKET};
use agentrouter_instance::storage;
use agentrouter_model::{Owner, Realm, ScopeSet};
use agentrouter_postgres::Target;
use agentrouter_service::{AdminAct, IssueError, NewKey, Origin, Phase, Service};
use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::http::{App, Listener};
use crate::settings::Settings;
use crate::telemetry::traces;
use crate::tls::Tls;

/// How the line of `bootstrap.env` begins that names the server's address.
const BASE_URL: &str = "AGENTROUTER_BASE_URL=";
/// How often the certificate's files are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How many of those go by until gRPC health is brought up to date, which writes to the store, and buckets are cleared.
const HEALTH_EVERY: u32 = 5;

/// Serves until SIGTERM or SIGINT, then finishes what is in progress.
///
/// # Errors
/// What keeps the server from starting.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    runtime(settings)?.block_on(serve(settings))
}

/// One thread per processor that this process may use, unless told otherwise.
fn runtime(settings: &Settings) -> std::io::Result<tokio::runtime::Runtime> {
    let threads = match settings.threads {
        0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        threads => threads,
    };
    let mut builder = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    builder.worker_threads(threads).on_thread_park(agentrouter_audit::before_park).enable_all().build()
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    // A limit on the size of files (`ulimit -f`) then refuses a write as a full disk does; by default it kills.
    let _ = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
    // Caught from here on: one that comes during the start ends the server in order, too.
    let mut signals = Signals::catch()?;
    let tls = match &settings.tls {
        Some((cert, key)) => Some(Arc::new(Tls::load(cert, key)?)),
        None => None,
    };
    if let Some(endpoint) = &settings.otlp_endpoint {
        traces::start(endpoint)?;
    }
    if let Some(url) = &settings.database_url
        && settings.database_url_is_flag
        && Target::has_password(url.expose())
    {
        tracing::warn!(
            "other users of this machine can read the password in --database-url; give it by --database-password-file, or the URL by its variable or the config file"
        );
    }
    tokio::select! {
        there = storage::await_there(settings) => there?,
        () = signals.wait() => {
            traces::stop().await;
            return Ok(());
        }
    }
    let instance = Instance::open(settings).await?;
    let listener = Listener::bind(settings.listen, tls.clone(), settings.limits.clone())
        .await
        .with_context(|| format!("cannot listen on {}", settings.listen))?;
    let service = Arc::clone(&instance.service);
    let app = Arc::new(App::new(Arc::clone(&service), settings, &SystemRng)?);
    let socket = AdminSocket::bind(&settings.data_dir, SOCKET, settings.data_dir.join(AUDIT))?;

    let origin =
        Origin { request_id: agentrouter_instance::admin::request_id(&SystemRng), ..Origin::default() };
    let url = base_url(listener.address()?, listener.is_tls());
    let first = bootstrap(&service, &origin, &settings.data_dir, &url).await?;
    service.record_admin(&origin, AdminAct::Start, Phase::Outcome, None).await.map_err(|_| {
        anyhow::anyhow!("the audit log cannot be written; see that its directory has space and is writable")
    })?;
    greet(&url, &settings.data_dir, first)?;

    let (stop, stopped) = watch::channel(false);
    let upkeep = tokio::spawn({
        let service = Arc::clone(&service);
        async move { service.run_maintenance().await }
    });
    let taken = TaskTracker::new();
    let commands = tokio::spawn({
        let service = Arc::clone(&service);
        let taken = taken.clone();
        async move { socket.serve(&service, &SystemRng, &taken).await }
    });
    let ticker = tokio::spawn(tick(Arc::clone(&app), tls));
    // Others wait for a server that may have something in memory: from here on, and not for one whose start failed.
    service.keep_in_memory();
    let serving = tokio::spawn(listener.serve(Arc::clone(&app), stopped, settings.shutdown_time));

    signals.wait().await;
    app.health().stop();
    drain(settings.drain_time, &mut signals).await;
    // One for all that is waited for: connections first, then what goes on without one.
    let deadline = tokio::time::Instant::now() + settings.shutdown_time;
    tracing::info!("stopping: requests in progress are finished first");
    stop.send_replace(true);
    serving.await?;
    for task in [upkeep, commands, ticker] {
        task.abort();
        // Its end is all that is waited for: an aborted task has no result.
        let _ = task.await;
    }
    // Calls whose clients have gone, and commands, still have their outcomes to record.
    taken.close();
    let rest = async { tokio::join!(app.finish(), taken.wait()) };
    if tokio::time::timeout_at(deadline, rest).await.is_err() {
        tracing::error!("some calls did not finish in the time given at shutdown");
    }
    if service.record_admin(&origin, AdminAct::Stop, Phase::Outcome, None).await.is_err() {
        tracing::error!("the audit log could not record the stop");
    }
    instance.close().await;
    traces::stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Goes on as before while `/readyz` says that the server stops, so that load balancers look elsewhere before it takes no
/// more connections. A second signal ends that.
async fn drain(time: Duration, signals: &mut Signals) {
    if time.is_zero() {
        return;
    }
    tracing::info!("stopping soon: requests are still taken, and /readyz says SHUTTING_DOWN");
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = signals.wait() => {}
    }
}

async fn tick(app: Arc<App>, tls: Option<Arc<Tls>>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0_u32;
    loop {
        interval.tick().await;
        if ticks.is_multiple_of(HEALTH_EVERY) {
            app.tick().await;
        }
        ticks = ticks.wrapping_add(1);
        if let Some(tls) = &tls {
            tls.reload_if_changed();
        }
    }
}

/// The signals that ask the server to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The address that a client on this machine uses.
fn base_url(address: SocketAddr, tls: bool) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{}", SocketAddr::new(ip, address.port()))
}

/// Issues the first key of a store that has none and writes it to `bootstrap.env`. The file is written before the key
/// is stored: a crash in between leaves a file without a key, which the next start writes anew, and never a key that
/// nobody has.
async fn bootstrap(service: &Arc<Service>, origin: &Origin, dir: &Path, url: &str) -> anyhow::Result<bool> {
    if service.store().has_keys().await.context("the store cannot be read")? {
        if let Err(error) = follow_address(dir, url) {
            tracing::warn!(error = &error as &dyn std::error::Error, "{BOOTSTRAP} names an earlier address");
        }
        return Ok(false);
    }
    let new = NewKey {
        name: "bootstrap".to_owned(),
        user: Owner::parse("admin").context("the bootstrap user is no user id")?,
        scopes: ScopeSet::ALL,
        realm: Realm::default(),
        realms: None,
        expires_at: None,
    };
    let path = dir.join(BOOTSTRAP);
    let write = |token: &agentrouter_crypto::ApiToken| {
        write_bootstrap(dir, &format!("{BASE_URL}{url}\nAGENTROUTER_API_KEY={}\n", token.expose_bare()))
    };
    let issued = service.issue_first_key_after(origin, new, write).await.map_err(|error| match error {
        IssueError::Refused(refusal) => anyhow::anyhow!("{}", refusal.message()),
        IssueError::Written(error) => {
            anyhow::Error::new(error).context(format!("{} cannot be written", path.display()))
        }
    })?;
    if issued.is_none() {
        // Another server on the same database was first; what this file holds is no key.
        std::fs::remove_file(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
    }
    Ok(issued.is_some())
}

/// Writes `bootstrap.env` whole, for its owner alone.
fn write_bootstrap(dir: &Path, text: &str) -> std::io::Result<()> {
    let temporary = dir.join(format!("{BOOTSTRAP}.new"));
    // One that a crash left may have another mode.
    if let Err(error) = std::fs::remove_file(&temporary)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(BOOTSTRAP))?;
    std::fs::File::open(dir)?.sync_all()
}

/// Has `bootstrap.env`, while it is there, name the address of this start in place of an earlier one's. An address with a
/// name in it was not written by us and stays.
fn follow_address(dir: &Path, url: &str) -> std::io::Result<()> {
    let text = match std::fs::read_to_string(dir.join(BOOTSTRAP)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    let earlier = text.lines().find_map(|line| line.strip_prefix(BASE_URL)).unwrap_or_default();
    let ours = earlier.split_once("://").is_some_and(|(_, host)| host.parse::<SocketAddr>().is_ok());
    if !ours || earlier == url {
        return Ok(());
    }
    write_bootstrap(dir, &text.replacen(&format!("{BASE_URL}{earlier}"), &format!("{BASE_URL}{url}"), 1))
}

/// Says where everything is.
fn greet(url: &str, dir: &Path, first: bool) -> anyhow::Result<()> {
    let bootstrap = dir.join(BOOTSTRAP);
    let mut out = std::io::stdout().lock();
    writeln!(out, "agentrouter-secrets {} listens on {url}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "  console    {url}/")?;
    writeln!(out, "  reference  {url}/docs")?;
    if bootstrap.is_file() {
        let path = bootstrap.display().to_string();
        let path = if path.contains('/') { path } else { format!("./{path}") };
        if first {
            writeln!(out, "  first key  {path} (user admin, all scopes; keep it or revoke it)")?;
        }
        writeln!(out, "Try it:")?;
        writeln!(out, "  . {path}")?;
        writeln!(
            out,
            "  curl \"${{AGENTROUTER_BASE_URL}}/v1/secrets\" -H \"Authorization: Bearer ak-${{AGENTROUTER_API_KEY}}\""
        )?;
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_url_is_one_that_a_client_can_use() {
        let url = |text: &str, tls| base_url(text.parse().expect("an address"), tls);
        assert_eq!(url("127.0.0.1:8080", false), "http://127.0.0.1:8080");
        assert_eq!(url("0.0.0.0:1", true), "https://127.0.0.1:1");
        assert_eq!(url("[::]:1", false), "http://[::1]:1");
    }
}
