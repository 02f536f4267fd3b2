//! Requests about worker groups.

use std::sync::Arc;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::wire;
use longwire_proto::wire::server_frame::Frame;
use longwire_proto::worker_group::GroupName;

use crate::auth::operation::Operation;
use crate::connection::Connection;
use crate::connection::lookups::boxed;
use crate::connection::reply::refused;
use crate::connection::witness::Management;
use crate::transport::{FrameSink, FrameSource};

impl<R: FrameSource, W: FrameSink> Connection<R, W> {
    pub(super) fn set_worker_group(&mut self, set: wire::SetWorkerGroup) {
        let request = set.request;
        let (name, management) = match self.worker_group(&set.group) {
            Ok(found) => found,
            Err(error) => return self.say(refused(request, 0, &error)),
        };
        let (groups, sender) = (Arc::clone(&self.context.groups), self.access.sender());
        let set = boxed(async move {
            groups.set(sender, name, set).await?;
            Ok(Frame::Done(wire::Done { request }))
        });
        self.answer_later(request, management.to("set"), set);
    }

    pub(super) fn list_worker_groups(&mut self, list: wire::ListWorkerGroups) {
        let request = list.request;
        let (groups, principal) = (Arc::clone(&self.context.groups), self.access.principal());
        let list = boxed(async move {
            let groups = groups.list(&principal).await?;
            Ok(Frame::WorkerGroupList(wire::WorkerGroupList { request, groups }))
        });
        self.answer_later(request, Management::default(), list);
    }

    pub(super) fn remove_worker_group(&mut self, remove: wire::RemoveWorkerGroup) {
        let request = remove.request;
        let (name, management) = match self.worker_group(&remove.group) {
            Ok(found) => found,
            Err(error) => return self.say(refused(request, 0, &error)),
        };
        let groups = Arc::clone(&self.context.groups);
        let remove = boxed(async move {
            groups.remove(&name).await?;
            Ok(Frame::Done(wire::Done { request }))
        });
        self.answer_later(request, management.to("remove"), remove);
    }

    /// The group of a request, when it may be managed.
    fn worker_group(&mut self, text: &str) -> Result<(GroupName, Management), Error> {
        let name = GroupName::parse(text)
            .map_err(|error| Error::new(ErrorCode::InvalidArgument, error.to_string()).field("group"))?;
        self.access.session(Operation::WorkerGroup, name.history().as_str())?;
        let management = self.access.managing(Operation::WorkerGroup, name.history().as_str());
        Ok((name, management))
    }
}
