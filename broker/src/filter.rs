//! Filters: which records of a session a reader wants to see.

use bytes::Bytes;
use longwire_proto::about::is_about;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{FILTER_VALUES_MAX, TYPE_BYTES_MAX};
use longwire_proto::meta::check_length;
use longwire_proto::record::Sealed;
use longwire_proto::short_id::check_short_id;
use longwire_proto::wire;

/// Which records to show. A record passes when each list that is not empty has its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    kinds: Vec<u32>,
    types: Vec<String>,
    ids: Vec<String>,
}

/// Those of some consecutive records that pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// The records.
    pub records: Vec<Bytes>,
    /// The offset of each.
    pub offsets: Vec<u64>,
}

impl Filter {
    /// A filter of the wire; `None` for one that lets everything pass.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] when it names too much.
    pub fn from_wire(filter: Option<wire::Filter>) -> Result<Option<Self>, Error> {
        let wire::Filter { kinds, types, ids } = filter.unwrap_or_default();
        if kinds.len().max(types.len()).max(ids.len()) > FILTER_VALUES_MAX {
            let message =
                format!("a filter names at most {FILTER_VALUES_MAX} kinds, as many types and as many ids");
            return Err(Error::new(ErrorCode::InvalidArgument, message)
                .field("filter")
                .limit(FILTER_VALUES_MAX));
        }
        for name in &types {
            check_length("filter", name, TYPE_BYTES_MAX)?;
        }
        for id in &ids {
            check_short_id(ErrorCode::InvalidArgument, "filter", id.as_bytes())?;
        }
        let passes_all = kinds.is_empty() && types.is_empty() && ids.is_empty();
        Ok((!passes_all).then_some(Self { kinds, types, ids }))
    }

    /// Whether it is about records of this kind alone, or among others.
    #[must_use]
    pub fn asks_for(&self, kind: u32) -> bool {
        self.kinds.contains(&kind)
    }

    /// Whether a record passes.
    #[must_use]
    pub fn passes(&self, record: &[u8]) -> bool {
        if !self.ids.is_empty() && !is_about(record, &self.ids) {
            return false;
        }
        let Ok(record) = Sealed::parse(record) else { return false };
        let of = |all_pass: bool, found: bool| all_pass || found;
        of(self.kinds.is_empty(), self.kinds.contains(&record.kind))
            && of(self.types.is_empty(), self.types.iter().any(|name| name == record.record_type))
    }

    /// Those of the records from `from` on that pass.
    #[must_use]
    pub fn apply(&self, from: u64, records: &[Bytes]) -> Passed {
        let mut passed = Passed::default();
        for (offset, record) in (from..).zip(records) {
            if self.passes(record) {
                passed.records.push(record.clone());
                passed.offsets.push(offset);
            }
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use longwire_proto::record::{Sender, Stamp, seal};
    use prost::Message;

    use super::*;

    fn filter(kinds: &[u32], types: &[&str]) -> Option<Filter> {
        let types = types.iter().map(ToString::to_string).collect();
        Filter::from_wire(Some(wire::Filter { kinds: kinds.to_vec(), types, ids: Vec::new() })).unwrap()
    }

    fn record(kind: u32, name: &str) -> Bytes {
        let record = wire::Record { kind, r#type: name.into(), ..Default::default() };
        let stamp = Stamp { time_ms: 1, sender: Sender::default(), producer: None };
        seal(&stamp, &[Bytes::from(record.encode_to_vec())]).remove(0)
    }

    #[test]
    fn a_record_passes_when_every_list_that_is_there_has_it() {
        let records = [record(0, "a"), record(0, "b"), record(40, "a"), record(10, "")];
        let offsets =
            |kinds: &[u32], types: &[&str]| filter(kinds, types).unwrap().apply(5, &records).offsets;
        assert_eq!(offsets(&[0], &[]), [5, 6]);
        assert_eq!(offsets(&[], &["a"]), [5, 7]);
        assert_eq!(offsets(&[0, 10], &["a", ""]), [5, 8]);
        assert_eq!(offsets(&[99], &[]), Vec::<u64>::new());
        assert_eq!(filter(&[], &[]), None);
    }

    #[test]
    fn a_record_is_about_what_it_is_and_what_it_names() {
        let of = |record: wire::Record| -> Bytes {
            let stamp = Stamp { time_ms: 1, sender: Sender::default(), producer: None };
            seal(&stamp, &[Bytes::from(record.encode_to_vec())]).remove(0)
        };
        let id = || "m".to_owned();
        let records = [
            of(wire::Record { id: id(), ..Default::default() }),
            of(wire::Record { message: id(), kind: 1, ..Default::default() }),
            of(wire::Record { run: id(), ..Default::default() }),
            of(wire::Record { reply_to: id(), ..Default::default() }),
            of(wire::Record { replaces: id(), kind: 40, ..Default::default() }),
            of(wire::Record { r#type: id(), to: vec![id()], mode: id(), ..Default::default() }),
            of(wire::Record { id: "n".into(), ..Default::default() }),
        ];
        let about = |ids: &[&str], kinds: &[u32]| {
            let ids = ids.iter().map(ToString::to_string).collect();
            let filter =
                Filter::from_wire(Some(wire::Filter { kinds: kinds.to_vec(), ids, ..Default::default() }));
            filter.unwrap().unwrap().apply(0, &records).offsets
        };
        assert_eq!(about(&["m"], &[]), [0, 1, 2, 3, 4]);
        assert_eq!(about(&["n", "x"], &[]), [6]);
        assert_eq!(about(&["m"], &[1, 40]), [1, 4]);
        let wrong = wire::Filter { ids: vec!["a b".into()], ..Default::default() };
        assert_eq!(Filter::from_wire(Some(wrong)).unwrap_err().field, "filter");
    }

    #[test]
    fn a_filter_is_bounded() {
        let many = wire::Filter { kinds: vec![0; FILTER_VALUES_MAX + 1], ..Default::default() };
        assert_eq!(Filter::from_wire(Some(many)).unwrap_err().field, "filter");
        let ids = wire::Filter { ids: vec!["x".into(); FILTER_VALUES_MAX + 1], ..Default::default() };
        assert_eq!(Filter::from_wire(Some(ids)).unwrap_err().limit, FILTER_VALUES_MAX as u64);
        let long = wire::Filter { types: vec!["x".repeat(TYPE_BYTES_MAX + 1)], ..Default::default() };
        assert_eq!(Filter::from_wire(Some(long)).unwrap_err().code, ErrorCode::InvalidArgument);
    }
}
