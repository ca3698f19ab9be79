//! `serve`: from the settings to a running server and back.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use agentrouter_audit::Audit;
use agentrouter_crypto::{KeyMemory, SystemRng, key_memory};
use agentrouter_instance::Advised;
use agentrouter_instance::admin::{self, AdminSocket};
use agentrouter_instance::instance::{AUDIT, EarlierClock, Instance, MissingStore, SOCKET};
use agentrouter_instance::kek::{self, Recheck};
use agentrouter_instance::permissions::warn_if_exposed;
use agentrouter_instance::storage;
use agentrouter_model::{Clock, SystemClock};
use agentrouter_service::{AdminAct, Origin, Phase, Service};
use agentrouter_store::StoreError;
use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::anchors::Anchors;
use crate::bootstrap::issue_first_key;
use crate::greeting::Greeting;
use crate::http::{App, Listener};
use crate::issuers;
use crate::metrics::Expiries;
use crate::settings::{ListenAddress, Settings};
use crate::telemetry::Log;
use crate::telemetry::audit_logs::Shipping;
use crate::telemetry::traces;
use crate::tls::Tls;
use crate::urls::base_urls;

/// How often the files of the certificate are checked for a change.
const TICK: Duration = Duration::from_secs(1);
/// How many ticks lie between two updates of gRPC health, which write to the store, and of the rate limiters.
const HEALTH_EVERY: u32 = 5;

/// How long a start waits for a command that holds the lock of the data directory.
const LOCK_TIME: Duration = Duration::from_secs(10);
/// The pause between two attempts to take the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// A clock that is behind by less was not set back, but corrected.
const STEP: Duration = Duration::from_secs(1);
/// How many ticks lie between two reads of the expiries of all API keys.
const EXPIRIES_EVERY: u32 = 60;
/// How many ticks lie between two warnings about a certificate that expires: a day.
const REMINDER_EVERY: u32 = 24 * 60 * 60;

/// The longest time for the last checkpoint of the audit log, and for the records that are not shipped yet.
const LAST_COPY: Duration = Duration::from_secs(10);
/// How many tasks a worker polls before it looks at the sockets and timers again.
const EVENT_INTERVAL: u32 = 16;

/// Serves until SIGTERM or SIGINT, then completes the requests in progress.
///
/// # Errors
/// Why the server cannot start.
pub(crate) fn run(
    settings: &Settings,
    missing: MissingStore,
    earlier: EarlierClock,
    log: Log,
) -> anyhow::Result<()> {
    let starting = StartWatch::begin(log)?;
    let runtime = runtime(settings)?;
    let served = runtime.block_on(serve(settings, missing, earlier, starting));
    // A thread that reads a pipe may wait for ever.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

/// Ends the process when a signal to stop arrives during the start.
///
/// The start reads files and migrates the database on its own thread, and any of that may wait: for the writer of a pipe,
/// or for a disk. So a thread of its own waits for the signals. To end the process then has the effect of a crash, from
/// which the next start recovers. The default action of the signals would do the same, except for the first process of a
/// container, which has none.
struct StartWatch {
    /// Ends the thread when it is dropped.
    _started: oneshot::Sender<()>,
}

impl StartWatch {
    fn begin(log: Log) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut signals = {
            let _context = runtime.enter();
            Signals::catch()?
        };
        let (sender, started) = oneshot::channel();
        let watch = move || {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = started => {}
                    () = signals.wait() => {
                        tracing::info!("stopped before the start was complete");
                        // The log has a thread of its own, which ends with the process.
                        drop(log);
                        std::process::exit(0);
                    }
                }
            });
        };
        std::thread::Builder::new().name("start".to_owned()).spawn(watch)?;
        Ok(Self { _started: sender })
    }
}

/// One thread per processor that this process may use, unless the setting says otherwise.
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
    // A list runs on the worker's thread. Without a smaller interval, the sockets and timers would wait for 61 of them.
    builder.event_interval(EVENT_INTERVAL);
    builder.worker_threads(threads).enable_all().build()
}

async fn serve(
    settings: &Settings,
    missing: MissingStore,
    earlier: EarlierClock,
    starting: StartWatch,
) -> anyhow::Result<()> {
    // A limit on the size of files (`ulimit -f`) then refuses a write as a full disk does; by default it kills.
    let _ = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
    // A hook that renews certificates may send these. Their default action is to kill the process. The server needs no
    // signal: it reads changed files by itself. On a hangup it reads the issuers of tokens again, also without a change.
    for ignored in [SignalKind::hangup(), SignalKind::user_defined1(), SignalKind::user_defined2()] {
        let _ = signal(ignored)?;
    }
    // Caught before `starting` ends, so that no signal is lost between the two.
    let mut signals = Signals::catch()?;
    let tls = load_tls(settings)?;
    if let Some(endpoint) = &settings.otlp_endpoint {
        traces::start(endpoint)?;
    }
    if let Some(url) = &settings.database_url
        && settings.database_url_is_flag
        && storage::has_password(url.expose())
    {
        tracing::warn!(
            "other users of this machine can read the password in --database-url; give it by --database-password-file, or the URL by its variable or the config file"
        );
    }
    storage::await_there(settings).await?;
    kek::await_there(settings).await?;
    let instance = open(settings, missing, earlier).await?;
    if key_memory() == KeyMemory::Unlocked {
        tracing::warn!(
            "the memory of the KEKs could not be locked, so it may be swapped out; raise the limit on locked memory (LimitMEMLOCK, or ulimit -l)"
        );
    }
    check_sockets(settings)?;
    let listener = Listener::bind(&settings.listen, tls.clone(), settings.limits.clone()).await?;
    let service = Arc::clone(&instance.service);
    let copies = Copies::of(settings, service.audit())?;
    let expiries = Expiries::new(tls.clone());
    let issuers_upkeep = issuers::Upkeep::begin(settings, &service).await?;
    let app = Arc::new(App::new(Arc::clone(&service), settings, &SystemRng, Arc::clone(&expiries))?);

    let origin =
        Origin { request_id: agentrouter_instance::admin::request_id(&SystemRng), ..Origin::default() };
    let urls = base_urls(&listener.addresses()?, tls.is_some());
    // Of the first address.
    let url = urls.first().context("the setting listen has no address")?.clone();
    let audit_dir = settings.data_dir.join(AUDIT);
    let socket = AdminSocket::bind(&settings.data_dir, SOCKET, audit_dir, urls.clone())?;
    let first = issue_first_key(&service, &origin, &settings.data_dir, &url).await?;
    service.record_admin(&origin, AdminAct::Start, Phase::Outcome, None).await.map_err(|_| {
        let hint = "check that its directory has space and is writable";
        Advised::new("the audit log cannot be written", hint)
    })?;
    Greeting { urls: &urls, dir: &settings.data_dir, first }.print(settings.log_format);
    drop(starting);

    let (stop, stopped) = watch::channel(false);
    let upkeep = tokio::spawn({
        let service = Arc::clone(&service);
        async move { service.run_maintenance().await }
    });
    let sweeping = tokio::spawn({
        let service = Arc::clone(&service);
        async move { service.run_sweep().await }
    });
    let taken = TaskTracker::new();
    let commands = tokio::spawn({
        let service = Arc::clone(&service);
        let taken = taken.clone();
        async move { socket.serve(&service, &SystemRng, &taken).await }
    });
    let (end_copies, ended) = watch::channel(false);
    let copying = tokio::spawn(copies.run(ended));
    let rechecking =
        tokio::spawn(recheck(Recheck::of(&settings.kek, kek::file(settings)?), Arc::clone(&service)));
    let identifying = tokio::spawn(issuers::run(issuers_upkeep));
    let ticker = tokio::spawn(tick(Arc::clone(&app), Arc::clone(&service), tls, expiries));
    // Other replicas wait for a server that may have rows in its cache: from here on, not for one whose start failed.
    service.keep_in_memory();
    let serving = tokio::spawn(listener.serve(Arc::clone(&app), stopped, settings.shutdown_time));

    signals.wait().await;
    app.health().stop();
    drain(settings.drain_time, &mut signals).await;
    // One deadline: first for connections, then for requests that no longer have one.
    let deadline = Instant::now() + settings.shutdown_time;
    tracing::info!("stopping: requests in progress are finished first");
    stop.send_replace(true);
    // The next 'kek rewrap' continues it.
    service.stop_rewrapping();
    serving.await?;
    for task in [upkeep, sweeping, commands, ticker, rechecking, identifying] {
        task.abort();
        // An aborted task has no result.
        let _ = task.await;
    }
    // Requests whose clients have disconnected, and commands, must still record their outcomes.
    taken.close();
    let rest = async { tokio::join!(app.finish(), taken.wait()) };
    if tokio::time::timeout_at(deadline, rest).await.is_err() {
        tracing::error!("some requests did not finish within --shutdown-time");
    }
    if service.record_admin(&origin, AdminAct::Stop, Phase::Outcome, None).await.is_err() {
        tracing::error!("the audit log could not record the stop");
    }
    // The last checkpoint has the stop.
    let _ = service.audit().flush().await;
    end_copies.send_replace(true);
    copying.await?;
    instance.close().await;
    traces::stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// The certificate of `tls.cert`, if it is set. Warns about addresses at which others can read the traffic.
fn load_tls(settings: &Settings) -> anyhow::Result<Option<Arc<Tls>>> {
    let client_ca = settings.identity.client_ca();
    let Some((cert, key)) = settings.tls() else {
        anyhow::ensure!(
            client_ca.is_none(),
            Advised::new("an issuer has client-ca, but the server has no TLS", "set tls.cert and tls.key")
        );
        for address in settings.listen.iter().filter(|address| !address.is_local()) {
            tracing::warn!(
                "the server speaks plain HTTP on {address}, so the network can read API keys and values; set tls.cert and tls.key, or listen on a loopback address behind a proxy that does TLS"
            );
        }
        return Ok(None);
    };
    anyhow::ensure!(
        !settings.listen.iter().all(|address| matches!(address, ListenAddress::Unix(_))),
        Advised::new(
            "tls.cert is set, but no address of 'listen' uses TLS: a Unix socket does not",
            "remove tls.cert and tls.key, or add an IP address to 'listen'",
        )
    );
    warn_if_exposed("the file of tls.key", key);
    let tls = Arc::new(Tls::load(cert, key, client_ca)?);
    tls.warn_if_ending(SystemClock.now());
    Ok(Some(tls))
}

/// Checks that no address of `listen` is the socket for commands.
fn check_sockets(settings: &Settings) -> anyhow::Result<()> {
    let commands = settings.data_dir.join(SOCKET);
    let is_commands = |address: &ListenAddress| match address {
        ListenAddress::Unix(path) => storage::is_same(path, &commands),
        ListenAddress::Tcp(_) => false,
    };
    anyhow::ensure!(
        !settings.listen.iter().any(is_commands),
        Advised::new(
            "'listen' names admin.sock in the data directory, the socket for commands",
            "name another path",
        )
    );
    Ok(())
}

/// Opens the instance. A command that runs without a server holds the lock of the data directory for a moment, and the start
/// waits for it. It does not wait for another server.
async fn open(settings: &Settings, missing: MissingStore, earlier: EarlierClock) -> anyhow::Result<Instance> {
    let deadline = Instant::now() + LOCK_TIME;
    let mut is_logged = false;
    loop {
        let error = match Instance::open_at(settings, missing, earlier).await {
            Ok(instance) => return Ok(instance),
            Err(error) => error,
        };
        let Some(StoreError::InUse { holder }) = error.downcast_ref::<StoreError>() else {
            return Err(error);
        };
        if Instant::now() >= deadline || admin::is_served(&settings.data_dir, SOCKET).await {
            return Err(error);
        }
        if !is_logged {
            tracing::info!(holder, "the data directory is in use: waiting for a command to end");
            is_logged = true;
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

/// Continues to serve for `time` while `/readyz` reports the shutdown, so that load balancers choose other servers
/// first. A second signal ends it.
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

/// The copies of the audit log that leave this host.
struct Copies {
    anchors: Option<Anchors>,
    shipping: Option<Shipping>,
}

impl Copies {
    fn of(settings: &Settings, audit: &Audit) -> anyhow::Result<Self> {
        let collector = settings.audit_otlp_endpoint.as_deref();
        Ok(Self {
            anchors: Anchors::of(settings, audit)?,
            shipping: collector.map(|endpoint| Shipping::to(endpoint, audit)).transpose()?,
        })
    }

    async fn run(self, ended: watch::Receiver<bool>) {
        tokio::join!(anchor(self.anchors, ended.clone()), ship(self.shipping, ended));
    }
}

/// Delivers checkpoints until the server stops, and then the last one.
async fn anchor(anchors: Option<Anchors>, mut ended: watch::Receiver<bool>) {
    let Some(mut anchors) = anchors else { return };
    tokio::select! {
        () = anchors.run() => {}
        // An error is the end, too.
        _ = ended.wait_for(|ended| *ended) => {}
    }
    if tokio::time::timeout(LAST_COPY, anchors.keep()).await.is_err() {
        tracing::warn!("the last checkpoint of the audit log could not be kept in time");
    }
}

/// Ships audit records until the server stops, and then the rest.
async fn ship(shipping: Option<Shipping>, mut ended: watch::Receiver<bool>) {
    let Some(mut shipping) = shipping else { return };
    tokio::select! {
        () = shipping.run() => {}
        _ = ended.wait_for(|ended| *ended) => {}
    }
    if tokio::time::timeout(LAST_COPY, shipping.finish()).await.is_err() {
        tracing::warn!("the last audit records could not be sent in time; the next start sends them");
    }
}

/// Checks the root key of the KEKs for as long as the server runs.
async fn recheck(recheck: Option<Recheck>, service: Arc<Service>) {
    if let Some(recheck) = recheck {
        recheck.run(service).await;
    }
}

async fn tick(app: Arc<App>, service: Arc<Service>, tls: Option<Arc<Tls>>, expiries: Arc<Expiries>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0_u32;
    let mut is_behind = false;
    loop {
        interval.tick().await;
        is_behind = warn_of_clock(&**service.clock(), is_behind);
        if ticks.is_multiple_of(HEALTH_EVERY) {
            app.tick().await;
        }
        if ticks.is_multiple_of(EXPIRIES_EVERY) {
            expiries.refresh(&service).await;
        }
        if let Some(tls) = &tls {
            tls.reload_if_changed();
            if ticks > 0 && ticks.is_multiple_of(REMINDER_EVERY) {
                tls.warn_if_ending(service.clock().now());
            }
        }
        ticks = ticks.wrapping_add(1);
    }
}

/// Logs when the machine's clock was set back, and when it is right again. Returns whether it is behind. `was` is the
/// result of the last call.
fn warn_of_clock(clock: &dyn Clock, was: bool) -> bool {
    let behind = clock.behind();
    let is = behind >= STEP;
    if is && !was {
        tracing::warn!(
            behind_seconds = behind.as_secs(),
            "the machine's clock was set back; the server continues from the latest time that it has seen, so that nothing that has expired works again; set the clock, or if it was wrong before, restart with 'serve --accept-clock'"
        );
    } else if was && !is {
        tracing::info!("the machine's clock is no longer behind the latest time that the server has seen");
    }
    is
}

/// The signals that ask a process to stop.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches them from now on, in the runtime that it is called in.
    pub(crate) fn catch() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
