//! The numbers by which requests and their answers belong together.

use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

/// Where a frame has the number of its request, when it is one.
pub(crate) fn request_mut(frame: &mut ClientFrame) -> Option<&mut u64> {
    Some(match frame {
        ClientFrame::Publish(frame) => &mut frame.request,
        ClientFrame::Subscribe(frame) => &mut frame.request,
        ClientFrame::Unsubscribe(frame) => &mut frame.request,
        ClientFrame::DescribeSession(frame) => &mut frame.request,
        ClientFrame::CreateSession(frame) => &mut frame.request,
        ClientFrame::CloseSession(frame) => &mut frame.request,
        ClientFrame::DeleteSession(frame) => &mut frame.request,
        ClientFrame::ListSessions(frame) => &mut frame.request,
        ClientFrame::Read(frame) => &mut frame.request,
        ClientFrame::TrimSession(frame) => &mut frame.request,
        ClientFrame::EraseRecords(frame) => &mut frame.request,
        ClientFrame::ForkSession(frame) => &mut frame.request,
        ClientFrame::ImportRecords(frame) => &mut frame.request,
        ClientFrame::CommitCursor(frame) => &mut frame.request,
        ClientFrame::DescribeCursor(frame) => &mut frame.request,
        ClientFrame::BackUp(frame) => &mut frame.request,
        ClientFrame::Authenticate(frame) => &mut frame.request,
        ClientFrame::ShareSession(frame) => &mut frame.request,
        ClientFrame::RevokeToken(frame) => &mut frame.request,
        ClientFrame::DescribeAsk(frame) => &mut frame.request,
        ClientFrame::ReadMessage(frame) => &mut frame.request,
        ClientFrame::Claim(frame) => &mut frame.request,
        ClientFrame::ReleaseLease(frame) => &mut frame.request,
        ClientFrame::SetWorkerGroup(frame) => &mut frame.request,
        ClientFrame::ListWorkerGroups(frame) => &mut frame.request,
        ClientFrame::RemoveWorkerGroup(frame) => &mut frame.request,
        ClientFrame::Hello(_) | ClientFrame::Ping(_) | ClientFrame::Credit(_) => return None,
    })
}

/// The number of the request that a frame answers, unless it is about one subscription.
pub(crate) fn answered(frame: &ServerFrame) -> Option<u64> {
    match frame {
        ServerFrame::Published(frame) => Some(frame.request),
        ServerFrame::SessionDescription(frame) => Some(frame.request),
        ServerFrame::SessionList(frame) => Some(frame.request),
        ServerFrame::Done(frame) => Some(frame.request),
        ServerFrame::Authenticated(frame) => Some(frame.request),
        ServerFrame::Shared(frame) => Some(frame.request),
        ServerFrame::Page(frame) => Some(frame.request),
        ServerFrame::Erased(frame) => Some(frame.request),
        ServerFrame::Imported(frame) => Some(frame.request),
        ServerFrame::CursorDescription(frame) => Some(frame.request),
        ServerFrame::BackedUp(frame) => Some(frame.request),
        ServerFrame::AskDescription(frame) => Some(frame.request),
        ServerFrame::MessageBytes(frame) => Some(frame.request),
        ServerFrame::Claimed(frame) => Some(frame.request),
        ServerFrame::WorkerGroupList(frame) => Some(frame.request),
        _ => None,
    }
}
