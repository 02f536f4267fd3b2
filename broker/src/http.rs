//! The HTTP side of the one port: health, metrics, the page, gRPC, and the upgrade to WebSocket (RFC 6455, section 4.2).

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{any, get};
use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderName, StatusCode};
use hyper_util::rt::TokioIo;
use longwire_proto::codec::Encoding;
use longwire_proto::error::{Error, ErrorCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::auth::authorise::{Subject, authorise};
use crate::auth::operation::Operation;
use crate::bearer::bearer;
use crate::connection::serve;
use crate::host::{is_known, requested};
use crate::http_context::{HttpContext, Remote};
use crate::origin::Origins;
use crate::problem::problem;
use crate::sockets::SocketPlace;
use crate::store::Health;
use crate::transport::grpc;
use crate::transport::grpc::refusal;
use crate::transport::websocket::{accept, end};
use crate::web_page;

/// The path that is upgraded to WebSocket.
pub const CONNECT_PATH: &str = "/v1/connect";
/// The one version of WebSocket (RFC 6455, section 4.1).
const WEBSOCKET_VERSION: &str = "13";

/// The routes of the port.
pub fn router(context: Arc<HttpContext>) -> Router {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route(CONNECT_PATH, any(connect));
    let router = grpc::routes(router).merge(grpc::system::routes(&context.serving)).fallback(grpc::not_found);
    let known_hosts = from_fn_with_state(Arc::clone(&context), refuse_other_hosts);
    web_page::routes(router).layer(known_hosts).with_state(context)
}

/// Answers only to names that are the broker's. A page elsewhere can have its own name lead to this address (DNS
/// rebinding); to a browser the broker then is of that page's origin, whatever the check of the origin says.
async fn refuse_other_hosts(
    State(context): State<Arc<HttpContext>>,
    request: Request,
    next: Next,
) -> Response {
    match requested(&request) {
        Ok(Some(host)) if !is_known(&host, &context.hosts) => {
            let message = format!(
                "the broker is not known as `{host}`; use its address, or add the name to its `hosts`"
            );
            refusal(request.headers(), &Error::new(ErrorCode::OriginForbidden, message))
        }
        Ok(_) => next.run(request).await,
        Err(error) => refusal(request.headers(), &error),
    }
}

async fn ready(State(context): State<Arc<HttpContext>>) -> (StatusCode, String) {
    let draining = context.connections.drain.borrow().is_some();
    match context.connections.hub.store().health() {
        _ if draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()),
        Health::Ready => (StatusCode::OK, "ready\n".to_owned()),
        Health::Degraded(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("degraded: {why}\n")),
    }
}

async fn metrics(State(context): State<Arc<HttpContext>>, request: Request) -> Response {
    let principal = bearer(request.headers()).and_then(|token| context.connections.guard.admit(token, ""));
    let allowed = principal.and_then(|who| authorise(&who, Operation::Metrics, Subject::Everything));
    if let Err(error) = allowed {
        return problem(&error);
    }
    metrics::gauge!("longwire_sessions_live").set(context.connections.hub.live() as f64);
    let text = context.metrics.render().await;
    let mut response = Response::new(Body::from(text));
    let text_format = HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(CONTENT_TYPE, text_format);
    response
}

async fn connect(State(context): State<Arc<HttpContext>>, mut request: Request) -> Response {
    let (encoding, accept_key) = match check(&request, &context.origins) {
        Ok(checked) => checked,
        Err(error) => return problem(&error),
    };
    if context.connections.drain.borrow().is_some() {
        return problem(&Error::new(ErrorCode::Draining, "the broker is shutting down; connect again"));
    }
    let place = request.extensions().get::<Arc<SocketPlace>>().cloned();
    if let Some(Err(error)) = place.as_ref().map(|place| place.sockets().check_room()) {
        return problem(&error);
    }
    let remote = request.extensions().get::<Remote>().map(|remote| remote.0);
    let upgrade = hyper::upgrade::on(&mut request);
    let connections = Arc::clone(&context.connections);
    context.upgraded.spawn(async move {
        let served = async {
            match upgrade.await {
                Ok(stream) => {
                    let (source, sink) = accept(TokioIo::new(stream), encoding, place.clone());
                    let (source, sink) = serve(connections, encoding, source, sink, remote).await;
                    Box::pin(end(source, sink)).await;
                }
                Err(error) => tracing::debug!(%error, "the peer left during the upgrade"),
            }
        };
        tokio::select! {
            () = served => {}
            () = outlived(place.as_deref()) => {}
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(encoding.subprotocol()));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept_key);
    response
}

/// Resolves when somebody else has had the place of a socket for a while.
async fn outlived(place: Option<&SocketPlace>) {
    match place {
        Some(place) => place.outlived().await,
        None => std::future::pending().await,
    }
}

fn check(request: &Request, origins: &Origins) -> Result<(Encoding, HeaderValue), Error> {
    let headers = request.headers();
    let bad = |message: &str| Error::new(ErrorCode::UnsupportedProtocol, message);
    if !has_token(headers, &CONNECTION, "upgrade") || !has_token(headers, &UPGRADE, "websocket") {
        return Err(bad("this path speaks WebSocket: send `Connection: Upgrade` and `Upgrade: websocket`"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != WEBSOCKET_VERSION) {
        return Err(bad("only version 13 of WebSocket is spoken: send `Sec-WebSocket-Version: 13`"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| bad("`Sec-WebSocket-Key` is missing"))?;
    origins.check(headers, requested(request)?.as_ref())?;
    let offered = tokens(headers, &SEC_WEBSOCKET_PROTOCOL);
    let encoding = offered
        .iter()
        .find_map(|offer| Encoding::ALL.into_iter().find(|encoding| encoding.subprotocol() == offer))
        .ok_or_else(|| {
            let known = Encoding::ALL.map(Encoding::subprotocol).join(" or ");
            let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
            bad(&format!("the client must offer subprotocol {known}; it offered {offered}"))
        })?;
    let accept_key = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| bad("`Sec-WebSocket-Key` is not one"))?;
    Ok((encoding, accept_key))
}

fn tokens(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|token| token.trim().to_owned())
        .filter(|t| !t.is_empty())
        .collect()
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).iter().any(|found| found.eq_ignore_ascii_case(token))
}
