//! What gRPC tells of itself: whether it serves, and what its service is.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use http_body::{Body, Frame, SizeHint};
use longwire_proto::limits::HELLO_BYTES_MAX;
use longwire_proto::service;
use tokio::sync::OwnedSemaphorePermit;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tonic_reflection::server::Builder;

use crate::transport::grpc::caller::Caller;

/// Bytes of one of its messages, and of ours in answer: the description of the service.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Tells who watches whether the broker serves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Serving(HealthReporter);

impl Serving {
    /// The broker serves.
    pub(crate) async fn begin(&self) {
        self.tell(ServingStatus::Serving).await;
    }

    /// The broker serves nobody any more who is not here.
    pub(crate) async fn end(&self) {
        self.tell(ServingStatus::NotServing).await;
    }

    async fn tell(&self, status: ServingStatus) {
        // The empty name is the whole broker's.
        for name in ["", service::NAME] {
            self.0.set_service_status(name, status).await;
        }
    }
}

/// Adds both to the routes of the port.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(serving: &Serving) -> Router<S> {
    let mut router = Router::new();
    let health = HealthServer::new(HealthService::from_health_reporter(serving.0.clone()))
        .max_decoding_message_size(HELLO_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    router = router.route_service("/grpc.health.v1.Health/{method}", health);
    let describe = || Builder::configure().register_encoded_file_descriptor_set(service::DESCRIPTORS);
    match (describe().build_v1(), describe().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => {
            let v1 =
                v1.max_decoding_message_size(HELLO_BYTES_MAX).max_encoding_message_size(ANSWER_BYTES_MAX);
            let v1alpha = v1alpha
                .max_decoding_message_size(HELLO_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX);
            router = router
                .route_service("/grpc.reflection.v1.ServerReflection/{method}", v1)
                .route_service("/grpc.reflection.v1alpha.ServerReflection/{method}", v1alpha);
        }
        // They are of this build, and a test reads them.
        (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "the service cannot be described"),
    }
    router.layer(from_fn(few))
}

/// Answers few of one socket at a time: anybody may ask.
async fn few(request: Request, next: Next) -> Response {
    let permit = match request.extensions().get::<Caller>() {
        Some(caller) => caller.strange().await,
        None => None,
    };
    next.run(request).await.map(|body| axum::body::Body::new(Held { body, _permit: permit }))
}

/// A body that has a permit until it is sent.
struct Held {
    body: axum::body::Body,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Body for Held {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
