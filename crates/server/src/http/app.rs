//! One request, from its head to its answer.

use std::sync::Arc;
use std::time::Duration;

use agentrouter_api::error;
use agentrouter_model::limits::BODY_BYTES;
use agentrouter_model::{Reason, Refusal, Rng, Rpc};
use agentrouter_service::{CallContext, Origin, Service, run_to_completion};
use connectrpc::compression::{CompressionPolicy, CompressionRegistry, GzipProvider};
use connectrpc::{ConnectRpcBody, ConnectRpcService, Limits as RpcLimits, Router};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tower::Service as _;

use super::admission::{Admission, Place, Shed, overloaded};
use super::body::{self, Answer};
use super::connect::Api;
use super::cors::{Cors, Verdict};
use super::gate::{self, RequestIds};
use super::health::{self, Health};
use super::listener::Peer;
use super::proxies::Proxies;
use super::rates::Rates;
use super::route::{Dialect, Route};
use super::{answer, media, rest};
use crate::metrics::{Metrics, Timer};
use crate::settings::Settings;
use crate::telemetry;

/// Most streams of gRPC health and reflection at once.
const STREAMS: usize = 256;

/// A request as it came. In a box from the beginning: every step passes it on, and what a step holds itself is copied when
/// the step is.
pub(crate) struct Asked {
    parts: Parts,
    body: Incoming,
    origin: Origin,
    peer: Peer,
}

/// A call that is let in.
struct Call {
    rpc: Rpc,
    dialect: Dialect,
    /// The name in the path; empty where there is none.
    name: String,
    timer: Timer,
    /// One of `limit.requests`.
    _place: OwnedSemaphorePermit,
}

/// What all requests share.
pub(crate) struct App {
    service: Arc<Service>,
    rpc: ConnectRpcService,
    rates: Rates,
    proxies: Proxies,
    ids: RequestIds,
    cors: Cors,
    places: Arc<Semaphore>,
    admission: Arc<Admission>,
    /// Places for health and reflection, which need no key and may last.
    streams: Arc<Semaphore>,
    calls: TaskTracker,
    health: Health,
    metrics: Metrics,
    body_time: Duration,
    header_bytes: usize,
}

impl App {
    /// # Errors
    /// When the random source fails or the built-in descriptors do not parse.
    pub(crate) fn new(service: Arc<Service>, settings: &Settings, rng: &dyn Rng) -> anyhow::Result<Self> {
        let limits = &settings.limits;
        let (router, health) = Health::install(Router::new());
        let reflector =
            connectrpc_reflection::Reflector::from_descriptor_set_bytes(agentrouter_api::DESCRIPTOR_SET)?;
        let router = connectrpc_reflection::install(router, reflector)
            .add_service(Arc::new(Api::new(Arc::clone(&service))));
        let bounds =
            RpcLimits::default().with_max_request_body_size(BODY_BYTES + 5).with_max_message_size(BODY_BYTES);
        // Requests may come compressed; answers never go out so, since what compresses beside a secret tells of it
        // (BREACH).
        let rpc = ConnectRpcService::new(router)
            .with_limits(bounds)
            .with_compression(CompressionRegistry::new().register(GzipProvider::default()))
            .with_compression_policy(CompressionPolicy::disabled());
        let admission = Admission::new();
        Ok(Self {
            metrics: Metrics::new(Arc::clone(&service), Arc::clone(&admission)),
            service,
            rpc,
            rates: Rates::new(limits),
            proxies: Proxies::new(settings.trusted_proxies.clone()),
            ids: RequestIds::new(rng)?,
            cors: Cors::new(&settings.cors_origins),
            places: Arc::new(Semaphore::new(limits.requests)),
            admission,
            streams: Arc::new(Semaphore::new(STREAMS)),
            calls: TaskTracker::new(),
            health,
            body_time: limits.body_time,
            header_bytes: limits.header_bytes,
        })
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// What has to be done now and then.
    pub(crate) async fn tick(&self) {
        self.rates.shrink();
        self.health.refresh(&self.service).await;
    }

    /// A request from `peer`.
    pub(crate) fn ask(&self, request: Request<Incoming>, peer: &Peer) -> Box<Asked> {
        let (parts, body) = request.into_parts();
        let peer = self.proxies.client(peer, &parts.headers);
        let origin = gate::origin(&self.ids, &parts.headers, peer.label.as_ref());
        Box::new(Asked { parts, body, origin, peer })
    }

    /// Answers a request.
    pub(crate) async fn handle(self: Arc<Self>, mut asked: Box<Asked>) -> Response<Answer> {
        let text = media::take_text(&mut asked.parts);
        let request_id = Arc::clone(&asked.origin.request_id);
        let cors = self.cors.judge(&asked.parts);
        let mut response = match cors.as_ref().and_then(Verdict::preflight) {
            Some(answer) => answer,
            None => self.route(asked).await,
        };
        if text {
            response = Box::pin(media::as_text(response)).await;
        }
        if let Some(cors) = cors {
            cors.mark(&mut response);
        }
        answer::seal(&mut response, &request_id);
        response
    }

    /// Calls are what this is for; whatever else takes its time has a box of its own, so that calls need not carry the
    /// room for it.
    async fn route(self: &Arc<Self>, asked: Box<Asked>) -> Response<Answer> {
        let parts = &asked.parts;
        if let Err((status, refusal)) = gate::check_head(parts, self.header_bytes) {
            let mut response = answer::refusal(&refusal, Dialect::Rest, &media::Kind::of(&parts.headers));
            *response.status_mut() = status;
            return response;
        }
        match Route::of(&parts.method, parts.uri.path(), || media::speaks_rpc(&parts.headers)) {
            Route::Call { rpc, dialect, name } => {
                let name = name.into_owned();
                let timer = Timer::begin(&parts.headers, &asked.origin.request_id);
                match self.enter(rpc, &timer).await {
                    Ok(place) => {
                        let call = Call { rpc, dialect, name, timer, _place: place };
                        self.call_to_completion(asked, call).await
                    }
                    Err(why) => self.shed(why, (rpc, dialect), &asked.parts.headers, &timer),
                }
            }
            Route::Infrastructure => Box::pin(self.infrastructure(*asked)).await,
            Route::Page(page) => page.answer(),
            Route::Livez => health::livez(),
            Route::Readyz => Box::pin(health::readyz(&self.health, &self.service)).await,
            Route::Metrics => self.metrics.answer(),
            Route::WrongMethod { allow, dialect } => {
                answer::wrong_method(&allow, dialect, &media::Kind::of(&parts.headers))
            }
            Route::Unknown { dialect } => {
                answer::refusal(&Reason::UnknownRoute.into(), dialect, &media::Kind::of(&parts.headers))
            }
        }
    }

    /// Lets a call begin when its turn has come: before anything is looked at but its route.
    async fn enter(&self, rpc: Rpc, timer: &Timer) -> Result<OwnedSemaphorePermit, Shed> {
        self.admission.enter(rpc, timer.start()).await?;
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| Shed::Requests)
    }

    /// The answer to a call that is not let in. Neither the key nor the body is looked at, nor is it put on record: the
    /// store and the log are what there is too much of.
    fn shed(
        &self,
        why: Shed,
        (rpc, dialect): (Rpc, Dialect),
        headers: &HeaderMap,
        timer: &Timer,
    ) -> Response<Answer> {
        self.metrics.shed(why);
        self.metrics.call(rpc, dialect, Some(Reason::Overloaded.as_str()), timer);
        answer::refusal(&overloaded(), dialect, &media::Kind::of(headers))
    }

    /// Makes the call to its end: a client that goes away, or does not wait any longer, neither stops it half-way nor
    /// takes it out of the audit log.
    async fn call_to_completion(self: &Arc<Self>, asked: Box<Asked>, call: Call) -> Response<Answer> {
        let dialect = call.dialect;
        let kind = media::Kind::of(&asked.parts.headers);
        let request_id = Arc::clone(&asked.origin.request_id);
        let app = Arc::clone(self);
        let work = async move { app.call(asked, call).await };
        match run_to_completion(self.calls.track_future(telemetry::within(request_id, work))).await {
            Ok(Ok(response)) => response,
            Ok(Err(refusal)) => answer::refusal(&refusal, dialect, &kind),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a call did not finish");
                answer::refusal(&Reason::Internal.into(), dialect, &kind)
            }
        }
    }

    /// Waits until the calls in progress are over, those whose clients have gone included.
    pub(crate) async fn finish(&self) {
        self.calls.close();
        self.calls.wait().await;
    }

    async fn call(&self, asked: Box<Asked>, call: Call) -> Result<Response<Answer>, Refusal> {
        let Call { rpc, dialect, name, timer, _place } = call;
        let address = asked.peer.address;
        let admitted = gate::admit(&self.service, &self.rates, &asked.parts.headers, address, rpc).await;
        let caller = match admitted {
            Ok(caller) => caller,
            Err((refusal, caller)) => {
                let refusal = if caller.is_none() && !self.rates.may_record(&refusal, address) {
                    refusal
                } else {
                    self.on_record(&asked.origin, caller.as_ref(), rpc, refusal).await
                };
                self.metrics.call(rpc, dialect, Some(refusal.reason.as_str()), &timer);
                return Err(refusal);
            }
        };
        let ctx = Arc::new(CallContext::new(caller, asked.origin.clone()));
        let result = match dialect {
            Dialect::Rest => self.rest(&ctx, asked, rpc, &name).await,
            Dialect::Connect => self.connect(&ctx, asked, rpc).await,
        };
        let result = match result {
            Err(refusal) if !ctx.is_recorded() && refusal.reason != Reason::Overloaded => {
                Err(self.on_record(&ctx.origin, Some(&ctx.caller), rpc, refusal).await)
            }
            result => result,
        };
        let reason = match &result {
            // A refusal that went through `connectrpc` says its reason in a header.
            Ok(response) => {
                response.headers().get(error::REASON_HEADER).and_then(|value| value.to_str().ok())
            }
            Err(refusal) => Some(refusal.reason.as_str()),
        };
        self.metrics.call(rpc, dialect, reason, &timer);
        result
    }

    /// Reads the body and hands the call to REST's translator.
    async fn rest(
        &self,
        ctx: &Arc<CallContext>,
        asked: Box<Asked>,
        rpc: Rpc,
        name: &str,
    ) -> Result<Response<Answer>, Refusal> {
        let headers = &asked.parts.headers;
        media::check_rest(headers, rpc)?;
        let bytes = body::read(asked.body, headers, self.body_time).await?;
        if bytes.len() > BODY_BYTES {
            return Err(Reason::BodyTooLarge.into());
        }
        let _place = self.place(rpc)?;
        let query = asked.parts.uri.query().unwrap_or_default();
        rest::answer(&self.service, ctx, rest::Call { rpc, name, query, body: &bytes }).await
    }

    /// Reads the body and hands the call to the library of Connect and gRPC.
    async fn connect(
        &self,
        ctx: &Arc<CallContext>,
        asked: Box<Asked>,
        rpc: Rpc,
    ) -> Result<Response<Answer>, Refusal> {
        let headers = &asked.parts.headers;
        let framed = media::check_connect(headers)?;
        let bytes = body::read(asked.body, headers, self.body_time).await?;
        let bytes = media::plain(&asked.parts, bytes)?;
        if framed {
            media::check_frame(&bytes)?;
        }
        media::check_json(headers, &bytes, framed)?;
        let _place = self.place(rpc)?;
        let mut request = Request::from_parts(asked.parts, Full::new(bytes));
        // The client keeps its own time. Here a call goes on to its end, so that it is on record either way.
        for header in ["connect-timeout-ms", "grpc-timeout"] {
            request.headers_mut().remove(header);
        }
        request.extensions_mut().insert(Arc::clone(ctx));
        let Ok(response) = self.rpc.clone().call(request).await;
        if ctx.is_recorded() {
            Ok(response.map(Answer::from))
        } else {
            // The library refused it; its words may repeat the request, so ours are sent.
            Err(library_refusal(response, Reason::MalformedBody).await)
        }
    }

    /// A place among the calls that are worked on.
    fn place(&self, rpc: Rpc) -> Result<Place<'_>, Refusal> {
        self.admission.admit(rpc).map_err(|why| {
            self.metrics.shed(why);
            overloaded()
        })
    }

    /// Puts a refusal on record. If that fails, that is the refusal.
    async fn on_record(
        &self,
        origin: &Origin,
        caller: Option<&agentrouter_service::Caller>,
        rpc: Rpc,
        refusal: Refusal,
    ) -> Refusal {
        self.service.record_refusal(origin, caller, Some(rpc), &refusal).await.err().unwrap_or(refusal)
    }

    async fn infrastructure(&self, asked: Asked) -> Response<Answer> {
        let Asked { parts, body, .. } = asked;
        let kind = media::Kind::of(&parts.headers);
        let refuse = |reason: Reason| answer::refusal(&reason.into(), Dialect::Connect, &kind);
        if media::is_text(&parts) {
            // Nobody who asks for these speaks base64, and streams in it would be another matter than calls.
            return refuse(Reason::UnsupportedMediaType);
        }
        // A probe is answered at once and holds nothing; what may last has a bound, lest probes find no place.
        let place = if parts.uri.path().ends_with("/Check") {
            None
        } else {
            match Arc::clone(&self.streams).try_acquire_owned() {
                Ok(place) => Some(place),
                Err(_) => return refuse(Reason::Overloaded),
            }
        };
        let call = self.rpc.clone().call(Request::from_parts(parts, self.health.until_stopped(body)));
        let Ok(response) = tokio::time::timeout(self.body_time, call).await else {
            return refuse(Reason::DeadlineExceeded);
        };
        let Ok(response) = response;
        let ours = response.headers().contains_key(error::REASON_HEADER);
        let failed = response.status().is_client_error()
            || response.status().is_server_error()
            || response.headers().get("grpc-status").is_some_and(|status| status != "0");
        if failed && !ours {
            let refusal = library_refusal(response, Reason::UnknownRoute).await;
            return answer::refusal(&refusal, Dialect::Connect, &kind);
        }
        response.map(|body| Answer::Rpc(Box::new(body), place))
    }
}

/// What the library meant, by its status; for gRPC that is in a header or a trailer, for gRPC-Web in a frame. It says
/// "unimplemented" of a procedure that is not there and of a body that is not one message.
async fn library_refusal(response: Response<ConnectRpcBody>, unimplemented: Reason) -> Refusal {
    let (parts, body) = response.into_parts();
    let Ok(body) = body.collect().await;
    let in_headers = |headers: &HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    let grpc: Option<u8> = in_headers(&parts.headers)
        .or_else(|| body.trailers().and_then(in_headers))
        .or_else(|| status_in_frame(&body.to_bytes()));
    let reason = match (parts.status, grpc) {
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, _) => Reason::UnsupportedMediaType,
        (StatusCode::METHOD_NOT_ALLOWED, _) => Reason::MethodNotAllowed,
        (StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE, _) | (_, Some(8)) => {
            Reason::BodyTooLarge
        }
        (StatusCode::GATEWAY_TIMEOUT, _) | (_, Some(4)) => Reason::DeadlineExceeded,
        (StatusCode::NOT_IMPLEMENTED, _) | (_, Some(12)) => unimplemented,
        (StatusCode::NOT_FOUND, _) | (_, Some(5)) => Reason::UnknownRoute,
        _ => Reason::MalformedBody,
    };
    reason.into()
}

/// The `grpc-status` among the trailers that gRPC-Web puts into the body, in a frame with the highest flag.
fn status_in_frame(body: &[u8]) -> Option<u8> {
    let [0x80, _, _, _, _, trailers @ ..] = body else { return None };
    let trailers = std::str::from_utf8(trailers).ok()?;
    let status = trailers.lines().find_map(|line| line.strip_prefix("grpc-status:"))?;
    status.trim().parse().ok()
}
