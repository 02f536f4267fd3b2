//! What became of the inputs of an agent, as whoever holds its lease says.

use longwire_proto::input::ReceiptState;
use longwire_proto::kind;
use longwire_proto::wire;
use longwire_proto::wire::record::Body as WireBody;

use crate::error::PublishError;
use crate::lease::Lease;
use crate::publication::Publication;

impl Lease {
    /// Says that the agent has an input. It may be said again.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn delivered(&self, input: &str) -> Result<(), PublishError> {
        self.receipt(input, ReceiptState::Delivered, "", "").await
    }

    /// Ends an input: it is done, or being done by this run; the id may be empty.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn consumed(&self, input: &str, run: &str) -> Result<(), PublishError> {
        self.receipt(input, ReceiptState::Consumed, run, "").await
    }

    /// Ends an input: it is not going to be done.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn not_consumed(&self, input: &str, reason: &str) -> Result<(), PublishError> {
        self.receipt(input, ReceiptState::NotConsumed, "", reason).await
    }

    async fn receipt(
        &self,
        input: &str,
        state: ReceiptState,
        run: &str,
        reason: &str,
    ) -> Result<(), PublishError> {
        let (state, run, reason) = (state.as_str().to_owned(), run.to_owned(), reason.to_owned());
        let body = WireBody::Receipt(wire::Receipt { state, run, reason });
        let publication = Publication::entity(kind::INPUT, body).reply_to(input);
        self.session().publish(publication).await.map(drop)
    }
}
