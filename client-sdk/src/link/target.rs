//! What is dialed.

use longwire_proto::codec::Encoding;

use crate::address::Address;
use crate::link::endpoints::Endpoints;
use crate::tls::Tls;

/// See the top of this file.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) tls: Option<Tls>,
    pub(super) encoding: Encoding,
    pub(super) endpoints: Endpoints,
}

impl Target {
    pub(super) fn new(address: Address, tls: Option<Tls>, encoding: Encoding) -> Self {
        Self { address, tls, encoding, endpoints: Endpoints::default() }
    }
}
