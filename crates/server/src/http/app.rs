//! One API request, from its head to its response: route, permit, gate, body, operation.
//!
//! Rejections of the transport itself (a body that cannot be read) are recorded here. Their text is replaced, because
//! the message of a library may repeat the request.

use std::sync::Arc;
use std::time::Duration;

use agentrouter_model::limits::BODY_BYTES;
use agentrouter_model::{Reason, Refusal, Rng, Rpc};
use agentrouter_service::{CallContext, Caller, Origin, Service, run_to_completion};
use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Request, Response, Version};
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;

use super::arriving::{self, Arriving};
use super::body::{self, frame};
use super::connect::Connect;
use super::connections::{Connection, Connections, Exchange, Sending};
use super::gate::{self, rates::Rates};
use super::head::cors::{Cors, Verdict};
use super::head::dialect::Dialect;
use super::head::media::{self, Kind};
use super::head::route::{self, Route};
use super::head::{self, Inbound, RequestIds};
use super::health::{self, Health};
use super::limiter::{Admitted, Limiters, Shed};
use super::peer::{Peer, Proxies};
use super::respond::{self, HttpResponse};
use super::rest;
use crate::metrics::{Expiries, Metrics, Timer};
use crate::settings::Settings;
use crate::telemetry::clients;

/// An API request that has its permit.
struct Call {
    rpc: Rpc,
    dialect: Dialect,
    /// The name in the path; empty without one.
    name: String,
    timer: Timer,
    admitted: Admitted,
}

/// The state that all requests share.
pub(crate) struct App {
    service: Arc<Service>,
    connect: Connect,
    rates: Arc<Rates>,
    proxies: Proxies,
    ids: RequestIds,
    cors: Cors,
    connections: Arc<Connections>,
    limiters: Arc<Limiters>,
    calls: TaskTracker,
    health: Health,
    metrics: Metrics,
    body_time: Duration,
    header_time: Duration,
    header_bytes: usize,
    /// The most bytes of a page of a list.
    list_bytes: u32,
}

/// The most bytes of most responses. What a longer one takes above it is counted when it is made.
const RESPONSE_BYTES: u32 = 64 * 1024;

impl App {
    /// # Errors
    /// When the random source fails or the built-in descriptors do not parse.
    pub(crate) fn new(
        service: Arc<Service>,
        settings: &Settings,
        rng: &dyn Rng,
        expiries: Arc<Expiries>,
    ) -> anyhow::Result<Self> {
        let limits = &settings.limits;
        let (connect, health) = Connect::new(&service)?;
        let limiters = Arc::new(Limiters::new(limits.requests));
        let connections = Connections::new(limits);
        let rates = Arc::new(Rates::new(limits));
        Ok(Self {
            metrics: Metrics::new(
                Arc::clone(&service),
                Arc::clone(&limiters),
                Arc::clone(&connections),
                Arc::clone(&rates),
                expiries,
            ),
            connections,
            service,
            connect,
            rates,
            proxies: Proxies::new(settings.trusted_proxies.clone()),
            ids: RequestIds::new(rng)?,
            cors: Cors::new(&settings.cors_origins),
            limiters,
            calls: TaskTracker::new(),
            health,
            body_time: limits.body_time,
            header_time: limits.header_time,
            list_bytes: limits.list_size,
            header_bytes: limits.header_bytes,
        })
    }

    pub(super) fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// See [`Proxies::share_of`].
    pub(super) fn share_of(&self, peer: &Peer) -> Option<std::net::IpAddr> {
        self.proxies.share_of(peer)
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// Periodic work, every few seconds.
    pub(crate) async fn tick(&self) {
        self.rates.shrink();
        clients::shrink();
        self.health.refresh(&self.service).await;
    }

    /// Waits until the requests in progress are complete, including those whose clients have disconnected.
    pub(crate) async fn finish(&self) {
        self.calls.close();
        self.calls.wait().await;
    }

    /// Reads the identity of a request that arrived on the connection of `peer`.
    pub(super) fn receive(
        &self,
        request: Request<Incoming>,
        connection: &Arc<Connection>,
        peer: &Peer,
    ) -> Box<Inbound> {
        Inbound::new(request, connection, peer, &self.proxies, &self.ids)
    }

    /// Serves a request.
    pub(super) async fn handle(
        self: Arc<Self>,
        inbound: Box<Inbound>,
        mut exchange: Exchange,
    ) -> Response<Sending> {
        let is_http1 = inbound.parts.version != Version::HTTP_2;
        let expects = is_http1 && inbound.parts.headers.contains_key(EXPECT);
        let mut response = self.respond(inbound, &mut exchange).await;
        if is_http1 {
            let connection = exchange.connection();
            let is_drained = match connection.take_rest() {
                Some(rest) => Box::pin(arriving::is_drained(rest, expects)).await,
                None => true,
            };
            if !is_drained || connection.is_closing() || !connection.has_seat() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
        response.map(|body| exchange.send(body))
    }

    async fn respond(self: &Arc<Self>, mut inbound: Box<Inbound>, exchange: &mut Exchange) -> HttpResponse {
        let text = media::take_text(&mut inbound.parts);
        let request_id = Arc::clone(&inbound.origin.request_id);
        let cors = self.cors.judge(&inbound.parts);
        let mut response = match cors.as_ref().and_then(Verdict::preflight) {
            Some(response) => response,
            None => self.seated(inbound, exchange).await,
        };
        if text {
            response = Box::pin(respond::as_text(response)).await;
        }
        if let Some(cors) = cors {
            cors.mark(&mut response);
        }
        respond::seal(&mut response, &request_id);
        response
    }

    /// A request on a connection without a seat waits for one, unless it is a probe.
    async fn seated(self: &Arc<Self>, inbound: Box<Inbound>, exchange: &mut Exchange) -> HttpResponse {
        let connection = exchange.connection();
        if !connection.has_seat() && !route::is_probe(inbound.parts.uri.path()) {
            let taken = Box::pin(tokio::time::timeout(self.header_time, connection.take_seat())).await;
            if taken.is_err() {
                let headers = &inbound.parts.headers;
                let dialect = if media::speaks_rpc(headers) { Dialect::Connect } else { Dialect::Rest };
                self.metrics.shed(Shed::Connections);
                return respond::refusal(&Shed::Connections.refusal(), dialect, &Kind::of(headers));
            }
        }
        self.route(inbound, exchange).await
    }

    /// Every request that is not an API request has its own box, so that the future of an API request stays small.
    async fn route(self: &Arc<Self>, inbound: Box<Inbound>, exchange: &mut Exchange) -> HttpResponse {
        let parts = &inbound.parts;
        if let Err((status, refusal)) = head::check(parts, self.header_bytes) {
            let mut response = respond::refusal(&refusal, Dialect::Rest, &Kind::of(&parts.headers));
            *response.status_mut() = status;
            return response;
        }
        match Route::of(&parts.method, parts.uri.path(), || media::speaks_rpc(&parts.headers)) {
            Route::Call { rpc, dialect, name } => {
                let name = name.into_owned();
                let timer = Timer::begin(inbound.parent.as_deref(), &inbound.origin.request_id);
                let most = if rpc == Rpc::ListSecrets { self.list_bytes } else { RESPONSE_BYTES };
                exchange.reserve(most).await;
                match self.limiters.acquire(rpc, timer.start()).await {
                    Ok(admitted) => {
                        let call = Call { rpc, dialect, name, timer, admitted };
                        self.run_call(inbound, call).await
                    }
                    Err(shed) => self.shed(shed, (rpc, dialect), &inbound.parts.headers, &timer),
                }
            }
            Route::Infrastructure => {
                let Inbound { parts, body, .. } = *inbound;
                let served = self.connect.serve_infrastructure(
                    parts,
                    body,
                    exchange.connection(),
                    &self.health,
                    self.body_time,
                );
                Box::pin(served).await
            }
            Route::Page(page) => page.response(),
            Route::Livez => health::livez(),
            Route::Readyz => Box::pin(health::readyz(&self.health, &self.service, parts.uri.query())).await,
            Route::Metrics => self.metrics.response(&parts.headers),
            Route::WrongMethod { allow, dialect } => {
                respond::wrong_method(&allow, dialect, &Kind::of(&parts.headers))
            }
            Route::Unknown { dialect } => {
                respond::refusal(&Reason::UnknownRoute.into(), dialect, &Kind::of(&parts.headers))
            }
        }
    }

    /// The response to a request that is shed. Its key and body are not read, and it is not recorded: the store and the
    /// audit log are overloaded.
    fn shed(
        &self,
        shed: Shed,
        (rpc, dialect): (Rpc, Dialect),
        headers: &HeaderMap,
        timer: &Timer,
    ) -> HttpResponse {
        self.metrics.shed(shed);
        self.metrics.call(rpc, dialect, Some(Reason::Overloaded), timer);
        respond::refusal(&shed.refusal(), dialect, &Kind::of(headers))
    }

    /// Runs the request to completion. A client that disconnects neither stops it nor removes it from the audit log.
    async fn run_call(self: &Arc<Self>, inbound: Box<Inbound>, call: Call) -> HttpResponse {
        let dialect = call.dialect;
        let kind = Kind::of(&inbound.parts.headers);
        let request_id = Arc::clone(&inbound.origin.request_id);
        let address = inbound.peer.address;
        let app = Arc::clone(self);
        let work = async move { app.call(inbound, call).await };
        let work = clients::of_request(request_id, address, work);
        match run_to_completion(self.calls.track_future(work)).await {
            Ok(Ok(response)) => response,
            Ok(Err(refusal)) => respond::refusal(&refusal, dialect, &kind),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a request did not complete");
                respond::refusal(&Reason::Internal.into(), dialect, &kind)
            }
        }
    }

    async fn call(&self, inbound: Box<Inbound>, mut call: Call) -> Result<HttpResponse, Refusal> {
        let address = inbound.peer.address;
        let rpc = call.rpc;
        let admitted =
            gate::admit(&self.service, &self.rates, &inbound.parts.headers, &inbound.peer, rpc).await;
        let caller = match admitted {
            Ok(caller) => caller,
            Err((refusal, caller)) => {
                call.admitted.give_back();
                let refusal = if self.rates.may_record(&refusal, address, caller.as_ref()) {
                    self.record(&inbound.origin, caller.as_ref(), rpc, refusal).await
                } else {
                    refusal
                };
                self.metrics.call(rpc, call.dialect, Some(refusal.reason), &call.timer);
                return Err(refusal);
            }
        };
        let ctx = Arc::new(CallContext::new(caller, inbound.origin.clone()));
        let result = match call.dialect {
            Dialect::Rest => self.rest(&ctx, inbound, &mut call).await,
            Dialect::Connect => self.connect(&ctx, inbound, &mut call.admitted).await,
        };
        let result = match result {
            Err(refusal) if !ctx.is_recorded() && refusal.reason != Reason::Overloaded => {
                call.admitted.give_back();
                Err(self.record(&ctx.origin, Some(&ctx.caller), rpc, refusal).await)
            }
            result => result,
        };
        let reason = match &result {
            Ok(_) => ctx.refusal(),
            Err(refusal) => Some(refusal.reason),
        };
        self.metrics.call(rpc, call.dialect, reason, &call.timer);
        result
    }

    /// Reads the body and hands it to the translator of REST.
    async fn rest(
        &self,
        ctx: &Arc<CallContext>,
        inbound: Box<Inbound>,
        call: &mut Call,
    ) -> Result<HttpResponse, Refusal> {
        let parts = &inbound.parts;
        media::check_rest(&parts.headers, call.rpc)?;
        let bytes = self.read(inbound.body, parts, &mut call.admitted).await?;
        if bytes.len() > BODY_BYTES {
            return Err(Reason::BodyTooLarge.into());
        }
        let query = parts.uri.query().unwrap_or_default();
        let input = rest::Input { rpc: call.rpc, name: &call.name, query, body: &bytes };
        rest::serve(&self.service, ctx, input).await
    }

    /// Reads the body and hands it to the Connect library.
    async fn connect(
        &self,
        ctx: &Arc<CallContext>,
        inbound: Box<Inbound>,
        admitted: &mut Admitted,
    ) -> Result<HttpResponse, Refusal> {
        let Inbound { parts, body, .. } = *inbound;
        let framed = media::check_connect(&parts.headers)?;
        let bytes = self.read(body, &parts, admitted).await?;
        let bytes = frame::plain(&parts, bytes)?;
        if framed {
            frame::check_frame(&bytes)?;
        }
        frame::check_json(&parts.headers, &bytes, framed)?;
        self.connect.serve(ctx, parts, bytes).await
    }

    /// Reads a body. A request whose client is slow holds no permit meanwhile.
    async fn read(&self, body: Arriving, parts: &Parts, admitted: &mut Admitted) -> Result<Bytes, Refusal> {
        let read = admitted.await_client(body::read(body, parts, self.body_time)).await;
        read.unwrap_or_else(|shed| {
            self.metrics.shed(shed);
            Err(shed.refusal())
        })
    }

    /// Records a refusal. If that fails, the failure is the refusal.
    async fn record(&self, origin: &Origin, caller: Option<&Caller>, rpc: Rpc, refusal: Refusal) -> Refusal {
        self.service.record_refusal(origin, caller, Some(rpc), &refusal).await.err().unwrap_or(refusal)
    }
}
