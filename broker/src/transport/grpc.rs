//! gRPC: the whole protocol as one stream of frames each way, and its requests as calls. A call that asks one thing is a connection of
//! its own within the process, which says hello, asks that one thing and leaves: so it means what it means everywhere.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method as HttpMethod, StatusCode, Version};
use http_body_util::BodyExt;
use longwire_proto::codec::{Encoding, encode_client};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::FRAME_BYTES_MAX;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use prost::Message;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status};

use crate::connection;
use crate::host::requested;
use crate::http_context::{HttpContext, Remote};
use crate::problem::problem;
use crate::transport::grpc::caller::Caller;
use crate::transport::grpc::method::{
    GOODBYE, HEARTBEAT, Method, PONG, REFUSED, SUBSCRIBE, Unary, WELCOME, frame, message,
};
use crate::transport::grpc::reply::{Ending, Reply};
use crate::transport::grpc::source::{CallSource, Frames, Messages, Pings};
use crate::transport::grpc::status::{broken, of_error, of_wire};
use crate::transport::grpc::watch::{Watch, goodbye};
use crate::transport::memory::{MemoryClient, MemorySink, link, outlet};
use crate::transport::{FrameSource, LinkEnd};

pub(crate) mod caller;
mod metadata;
mod method;
mod reply;
mod source;
mod status;
pub(crate) mod system;
mod watch;

/// How long what is left of a call may take that is over: of its answer once the broker stops, and of its request once it is refused.
const LINGER_TIME: Duration = Duration::from_secs(1);
/// What the body of a call is.
const GRPC: &str = "application/grpc";

/// Adds the service to the routes of the port.
pub(crate) fn routes(router: Router<Arc<HttpContext>>) -> Router<Arc<HttpContext>> {
    // `service::NAME`, as a test has it.
    router.route("/longwire.v1.SessionService/{method}", any(call))
}

/// Whether a request is a call: it may also have named the encoding of its messages, of which protobuf is the only one.
fn is_call(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    matches!(media_type.strip_prefix(GRPC), Some("" | "+proto"))
        || media_type.strip_prefix(GRPC).is_some_and(|rest| rest.starts_with(';'))
}

/// An error as who asked hears it: as a status in answer to a call, else as HTTP has it.
pub(crate) fn refusal(headers: &HeaderMap, error: &Error) -> Response {
    if is_call(headers) { answer(of_error(error)) } else { problem(error) }
}

/// What somebody is told who asks for what there is not.
pub(crate) async fn not_found(request: Request) -> Response {
    if is_call(request.headers()) {
        let message = format!("there is no service with the method `{}`", request.uri().path());
        return answer(Status::unimplemented(message));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn answer(status: Status) -> Response {
    status.into_http()
}

fn accepted(reply: Reply) -> Response {
    let mut response = Response::new(Body::new(reply));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    response
}

/// A call that was let in.
struct Call {
    context: Arc<HttpContext>,
    caller: Caller,
    remote: Option<Remote>,
    deadline: Option<Instant>,
}

async fn call(
    State(context): State<Arc<HttpContext>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    if !is_call(request.headers())
        || request.method() != HttpMethod::POST
        || request.version() != Version::HTTP_2
    {
        let message = format!("this path speaks gRPC: POST over HTTP/2, with the content type `{GRPC}`");
        return problem(&Error::new(ErrorCode::UnsupportedProtocol, message));
    }
    let Some(method) = Method::of(&name) else {
        return answer(Status::unimplemented(format!("the service has no method `{name}`")));
    };
    metrics::counter!("longwire_grpc_calls_total", "method" => method.name()).increment(1);
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    match begin(context, method, Request::from_parts(parts, Body::empty()), &mut body).await {
        Ok(reply) => accepted(reply),
        Err(status) => {
            if let Some(body) = body.filter(|_| status.code() != Code::DeadlineExceeded) {
                discard(body).await;
            }
            answer(*status)
        }
    }
}

/// Throws away what a call that is refused has to say. What comes on a stream that is over already is counted as an offence of the
/// client's, who could not know; and so many of these end its connection.
async fn discard(mut body: Body) {
    let discarded = async {
        let mut left = FRAME_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    // Who does not come to an end is refused in the middle.
    drop(timeout(LINGER_TIME, discarded).await);
}

/// Statuses are large, and most calls have none.
type Refusal = Box<Status>;

fn refused(error: Error) -> Refusal {
    Box::new(of_error(&error))
}

/// Begins a call, whose body is taken where it is read.
async fn begin(
    context: Arc<HttpContext>,
    method: Method,
    request: Request,
    body: &mut Option<Body>,
) -> Result<Reply, Refusal> {
    let headers = request.headers();
    let host = requested(&request).map_err(refused)?;
    context.origins.check(headers, host.as_ref()).map_err(refused)?;
    if headers.get("grpc-encoding").is_some_and(|encoding| encoding != "identity") {
        return Err(Box::new(Status::unimplemented("no compression is spoken: send messages as they are")));
    }
    let deadline = metadata::deadline(headers).map_err(refused)?;
    // A timer would be later than that by as much as it is coarse.
    if deadline.is_some_and(|due| due <= Instant::now()) {
        return Err(Box::new(status::deadline()));
    }
    if context.connections.drain.borrow().is_some() {
        let message = "the broker is shutting down; connect again";
        return Err(refused(Error::new(ErrorCode::Draining, message)));
    }
    let Some(caller) = request.extensions().get::<Caller>().cloned() else {
        return Err(refused(Error::new(ErrorCode::Internal, "the call came on no socket")));
    };
    let remote = request.extensions().get::<Remote>().copied();
    let call = Call { context, caller, remote, deadline };
    let hello = match method {
        Method::Attach => None,
        Method::Subscribe | Method::Unary(_) => Some(metadata::hello(headers).map_err(refused)?),
    };
    // From here on nothing of the headers is kept.
    drop(request);
    let due = async {
        match deadline {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    };
    let reply = async {
        match (method, hello) {
            (Method::Unary(unary), Some(hello)) => call.unary(unary, hello, body).await,
            (Method::Subscribe, Some(hello)) => call.subscribe(hello, body).await,
            (_, _) => Ok(call.attach(body.take().unwrap_or_default()).await),
        }
    };
    tokio::select! {
        biased;
        () = due => Err(Box::new(status::deadline())),
        reply = reply => reply,
    }
}

impl Call {
    /// The frame protocol.
    async fn attach(&self, body: Body) -> Reply {
        let strange = self.caller.strange().await;
        let source = CallSource::new(Frames::new(body), self.caller.clone(), strange, None);
        let (sink, outlet) = outlet();
        let ending = self.serve(source, sink);
        Reply::frames(outlet, None, Watch::all(), ending)
    }

    async fn unary(
        &self,
        unary: Unary,
        hello: wire::Hello,
        body: &mut Option<Body>,
    ) -> Result<Reply, Refusal> {
        let (client, ending) = self.connect(hello).await?;
        // What came is dropped as soon as it is a frame: it may be large.
        let command = frame(unary.request, &self.message(body).await?);
        client.send(command).await.map_err(|_| Box::new(broken()))?;
        loop {
            let (field, body) = next(&client).await?;
            match field {
                HEARTBEAT | PONG => {}
                field if field == unary.reply => return Ok(Reply::one(body, ending)),
                _ => return Err(refused_by(field, body)),
            }
        }
    }

    async fn subscribe(&self, hello: wire::Hello, body: &mut Option<Body>) -> Result<Reply, Refusal> {
        let (client, ending) = self.connect(hello).await?;
        let message = self.message(body).await?;
        // What is none is refused behind it, as everywhere.
        let count = wire::Subscribe::decode(message.clone()).map_or(0, |asked| asked.subscriptions.len());
        client.send(frame(SUBSCRIBE, &message)).await.map_err(|_| Box::new(broken()))?;
        let (feeder, outlet) = client.split();
        Ok(Reply::frames(outlet, Some(feeder), Watch::subscriptions(count), ending))
    }

    /// A connection for a call that has no frames of its own, once it was let in: what it asks is read then.
    async fn connect(&self, hello: wire::Hello) -> Result<(MemoryClient, Ending), Refusal> {
        let (client, source, sink) = link();
        let pings = Pings::within(self.context.connections.times.idle_timeout);
        let source = CallSource::new(source, self.caller.clone(), None, Some(pings));
        let ending = self.serve(source, sink);
        let hello = encode_client(Encoding::Proto, ClientFrame::Hello(hello));
        client.send(hello).await.map_err(|_| Box::new(broken()))?;
        match next(&client).await? {
            (WELCOME, _) => Ok((client, ending)),
            (field, body) => Err(refused_by(field, body)),
        }
    }

    /// The one message of the call, which may come as slowly as a frame.
    async fn message(&self, body: &mut Option<Body>) -> Result<Bytes, Refusal> {
        let within = self.context.connections.times.idle_timeout;
        match timeout(within, Messages::new(body.take().unwrap_or_default(), FRAME_BYTES_MAX).only()).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(LinkEnd::Refused(error))) => Err(refused(error)),
            Ok(Err(LinkEnd::Gone)) => Err(Box::new(broken())),
            Err(_) => {
                let message = format!("the message did not come within {} ms", within.as_millis());
                Err(refused(Error::new(ErrorCode::IdleTimeout, message)))
            }
        }
    }

    /// Serves a link, in a task of its own, which ends when nothing of the call is left.
    fn serve<S>(&self, source: CallSource<S>, sink: MemorySink) -> Ending
    where
        S: FrameSource + Send + 'static,
    {
        let gone = CancellationToken::new();
        let (context, caller) = (Arc::clone(&self.context.connections), self.caller.clone());
        let (remote, taken) = (self.remote.map(|remote| remote.0), gone.clone());
        self.context.upgraded.spawn(async move {
            let (idle_timeout, mut drain) = (context.times.idle_timeout, context.drain.clone());
            let served = async {
                let served = connection::serve(context, Encoding::Proto, source, sink, remote);
                let (source, sink) = Box::pin(served).await;
                drop(sink);
                // Its place is free when nothing that waits for the client is left. Who does not take it is not there.
                let lost = async {
                    tokio::select! {
                        () = sleep(idle_timeout) => {}
                        () = async { drop(drain.wait_for(Option::is_some).await); sleep(LINGER_TIME).await } => {}
                    }
                };
                tokio::select! {
                    () = taken.cancelled() => {}
                    () = lost => caller.cut(),
                }
                drop(source);
            };
            tokio::select! {
                () = served => {}
                () = caller.place().outlived() => {}
            }
        });
        let (gone, under_way): (DropGuard, _) = (gone.drop_guard(), self.caller.begin());
        Ending { deadline: self.deadline, gone, under_way }
    }
}

/// The next frame of a connection: its field and its message.
async fn next(client: &MemoryClient) -> Result<(u32, Bytes), Refusal> {
    match client.next().await {
        Ok(frame) => message(frame).ok_or_else(|| Box::new(broken())),
        Err(LinkEnd::Refused(error)) => Err(refused(error)),
        Err(LinkEnd::Gone) => Err(Box::new(broken())),
    }
}

/// The status of a frame that is not what was asked for.
fn refused_by(field: u32, body: Bytes) -> Refusal {
    Box::new(match field {
        REFUSED => {
            let refused = wire::Refused::decode(body).unwrap_or_default();
            of_wire(refused.error.unwrap_or_default(), 0)
        }
        GOODBYE => goodbye(body),
        _ => of_error(&Error::new(ErrorCode::Internal, "the broker answered with another frame")),
    })
}

#[cfg(test)]
mod tests {
    use longwire_proto::service;

    use super::*;

    #[test]
    fn the_route_is_the_services() {
        let source = include_str!("grpc.rs");
        assert!(source.contains(&format!("\"/{}/{{method}}\"", service::NAME)));
    }

    #[test]
    fn a_call_is_told_by_its_content_type() {
        let is = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, text.parse().unwrap());
            is_call(&headers)
        };
        assert!(is("application/grpc") && is("application/grpc+proto") && is("application/grpc;x=y"));
        for other in
            ["application/grpc-web", "application/grpc-web+proto", "application/grpc+json", "text/plain", ""]
        {
            assert!(!is(other), "{other}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }
}
