//! What a principal can ask of the broker, and which rights that takes.

use longwire_proto::right::{Right, Rights};

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// Everything that is asked of the broker by somebody.
        ///
        /// What names two sessions is two operations. What names sessions by a pattern, a prefix or other conditions is
        /// asked for each session that is found, and leaves out those that are refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Operation { $($(#[$doc])* $name,)* }

        impl Operation {
            /// Every operation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

operations! {
    /// Append records; that creates the session.
    Publish;
    /// Answer a question.
    Answer;
    /// See what became of a question.
    DescribeAsk;
    /// Send input to an agent, or cancel a run.
    Control;
    /// Set a key of the session's state, or remove it.
    SetState;
    /// Hold the lease of an agent: claim it, publish with it, give it up.
    Lease;
    /// Take the lease of an agent from whoever holds it.
    TakeOver;
    /// Follow a session.
    SubscribeLive;
    /// Follow a session from an earlier record on.
    SubscribeReplay;
    /// Follow a session that a pattern matches.
    SubscribePattern;
    /// Read a page of records.
    Read;
    /// Read bytes of a message.
    ReadMessage;
    /// See a session in a list.
    List;
    /// See one session's description.
    Describe;
    /// Create a session.
    Create;
    /// Replace a session's metadata; that creates it.
    Update;
    /// No more publishes.
    Close;
    /// Delete a session.
    Delete;
    /// Drop its first records.
    Trim;
    /// Make records tombstones.
    Erase;
    /// Fork a session off this one.
    ForkFrom;
    /// Make this session a fork.
    ForkInto;
    /// Read all of it, in order to take it elsewhere.
    Export;
    /// Make this session of what was exported.
    Import;
    /// Say how far one has consumed a session.
    CommitCursor;
    /// See how far one has.
    DescribeCursor;
    /// Do something in the name of somebody else.
    ActAs;
    /// Make a token for somebody else.
    Share;
    /// Let any token be accepted no longer.
    RevokeToken;
    /// Say whose agent a worker group wakes, and see its wakes.
    WorkerGroup;
    /// Write a backup of every session.
    BackUp;
    /// See what the broker measures, of every session.
    Metrics;
}

/// What an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One session.
    Session,
    /// A worker group, by the session that it is.
    Group,
    /// Every session there is.
    Everything,
}

impl Operation {
    /// The table: what it is about, and the rights that it takes, all of them.
    #[must_use]
    pub fn takes(self) -> (Reach, Rights) {
        let read = Rights::from(Right::Read);
        let create = Rights::from(Right::Create);
        let manage = Rights::from(Right::Manage);
        match self {
            Self::SubscribeLive | Self::SubscribeReplay | Self::SubscribePattern => (Reach::Session, read),
            Self::Read | Self::List | Self::Describe | Self::Export => (Reach::Session, read),
            Self::CommitCursor | Self::DescribeCursor | Self::ForkFrom => (Reach::Session, read),
            Self::DescribeAsk | Self::ReadMessage => (Reach::Session, read),
            Self::Publish => (Reach::Session, Right::Publish.into()),
            Self::Answer => (Reach::Session, Right::Answer.into()),
            Self::Control => (Reach::Session, Right::Control.into()),
            Self::SetState => (Reach::Session, Right::State.into()),
            Self::Lease => (Reach::Session, Right::Lease.into()),
            Self::TakeOver => (Reach::Session, Rights::from(Right::Lease) | Right::Manage),
            Self::Create | Self::ForkInto => (Reach::Session, create),
            // Whether the session exists is not known here, so it takes what either case does.
            Self::Update => (Reach::Session, create | Right::Manage),
            // It brings records in.
            Self::Import => (Reach::Session, create | Right::Publish),
            Self::Close | Self::Delete | Self::Trim | Self::Erase => (Reach::Session, manage),
            Self::ActAs | Self::Share => (Reach::Session, manage),
            // Of everything in the group's folder: it tells the names of sessions, and when something happens there.
            Self::WorkerGroup => (Reach::Group, read | Right::Manage),
            Self::RevokeToken | Self::BackUp | Self::Metrics => (Reach::Everything, manage),
        }
    }

    /// Whether it changes what there is of sessions, or who may do what: that is told to the audit log.
    #[must_use]
    pub fn is_management(self) -> bool {
        match self {
            Self::Create | Self::Update | Self::Close | Self::Delete | Self::Trim | Self::Erase => true,
            Self::ForkInto | Self::Import | Self::Share | Self::RevokeToken | Self::BackUp => true,
            Self::TakeOver | Self::WorkerGroup => true,
            Self::Publish | Self::ActAs | Self::CommitCursor | Self::DescribeCursor | Self::Metrics => false,
            Self::SubscribeLive | Self::SubscribeReplay | Self::SubscribePattern | Self::Read => false,
            Self::Answer | Self::DescribeAsk | Self::ReadMessage | Self::Control | Self::Lease => false,
            Self::SetState => false,
            Self::List | Self::Describe | Self::ForkFrom | Self::Export => false,
        }
    }

    /// Whether it changes nothing of a session. That is all that can be asked of those of a worker group.
    #[must_use]
    pub fn is_reading(self) -> bool {
        let follows = matches!(self, Self::SubscribeLive | Self::SubscribeReplay | Self::Read | Self::Export);
        follows || matches!(self, Self::Describe | Self::CommitCursor | Self::DescribeCursor)
    }

    /// The field of the request that names the session.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::ForkFrom => "from_session",
            Self::WorkerGroup => "group",
            _ => "session",
        }
    }
}

#[cfg(test)]
mod tests {
    use longwire_proto::wire::client_frame::Frame;

    use super::Operation as Op;

    /// What each frame asks for. A new frame does not compile here until that was thought about.
    fn operations(frame: &Frame) -> &'static [Op] {
        match frame {
            // They are about the connection itself, or about what was allowed to it before.
            Frame::Hello(_) | Frame::Ping(_) | Frame::Authenticate(_) => &[],
            Frame::Unsubscribe(_) | Frame::Credit(_) => &[],
            Frame::Publish(_) => &[Op::Publish, Op::Answer, Op::Control, Op::SetState, Op::Lease, Op::ActAs],
            Frame::DescribeAsk(_) => &[Op::DescribeAsk],
            Frame::ReadMessage(_) => &[Op::ReadMessage],
            Frame::Claim(_) => &[Op::Lease, Op::TakeOver],
            Frame::ReleaseLease(_) => &[Op::Lease],
            Frame::SetWorkerGroup(_) | Frame::ListWorkerGroups(_) | Frame::RemoveWorkerGroup(_) => {
                &[Op::WorkerGroup]
            }
            Frame::Subscribe(_) => {
                &[Op::SubscribeLive, Op::SubscribeReplay, Op::SubscribePattern, Op::DescribeCursor]
            }
            Frame::DescribeSession(_) => &[Op::Describe],
            Frame::CreateSession(_) => &[Op::Create, Op::Update],
            Frame::CloseSession(_) => &[Op::Close],
            Frame::DeleteSession(_) => &[Op::Delete],
            Frame::ListSessions(_) => &[Op::List],
            Frame::Read(_) => &[Op::Read, Op::Export],
            Frame::TrimSession(_) => &[Op::Trim],
            Frame::EraseRecords(_) => &[Op::Erase],
            Frame::ForkSession(_) => &[Op::ForkFrom, Op::ForkInto],
            Frame::ImportRecords(_) => &[Op::Import],
            Frame::CommitCursor(_) => &[Op::CommitCursor],
            Frame::DescribeCursor(_) => &[Op::DescribeCursor],
            Frame::BackUp(_) => &[Op::BackUp],
            Frame::ShareSession(_) => &[Op::Share],
            Frame::RevokeToken(_) => &[Op::RevokeToken],
        }
    }

    #[test]
    fn every_operation_is_asked_by_a_frame_or_beside_them() {
        let frames = [
            Frame::Hello(Default::default()),
            Frame::Ping(Default::default()),
            Frame::Unsubscribe(Default::default()),
            Frame::Credit(Default::default()),
            Frame::Publish(Default::default()),
            Frame::Subscribe(Default::default()),
            Frame::DescribeSession(Default::default()),
            Frame::CreateSession(Default::default()),
            Frame::CloseSession(Default::default()),
            Frame::DeleteSession(Default::default()),
            Frame::ListSessions(Default::default()),
            Frame::Read(Default::default()),
            Frame::TrimSession(Default::default()),
            Frame::EraseRecords(Default::default()),
            Frame::ForkSession(Default::default()),
            Frame::ImportRecords(Default::default()),
            Frame::CommitCursor(Default::default()),
            Frame::DescribeCursor(Default::default()),
            Frame::BackUp(Default::default()),
            Frame::Authenticate(Default::default()),
            Frame::ShareSession(Default::default()),
            Frame::RevokeToken(Default::default()),
            Frame::DescribeAsk(Default::default()),
            Frame::ReadMessage(Default::default()),
            Frame::Claim(Default::default()),
            Frame::ReleaseLease(Default::default()),
            Frame::SetWorkerGroup(Default::default()),
            Frame::ListWorkerGroups(Default::default()),
            Frame::RemoveWorkerGroup(Default::default()),
        ];
        // What is asked by HTTP.
        let beside = [Op::Metrics];
        for operation in Op::ALL {
            let asked = frames.iter().any(|frame| operations(frame).contains(operation));
            assert!(asked || beside.contains(operation), "{operation:?}");
        }
    }

    #[test]
    fn nothing_is_for_nothing() {
        assert!(Op::ALL.iter().all(|operation| !operation.takes().1.is_empty()));
    }
}
