//! Every limit of the wire and of the log, with its reason. `docs/protocol.md` carries the same table; a test keeps
//! them equal.

/// Bytes of a session id: fits a file name and a store's key.
pub const SESSION_ID_BYTES_MAX: usize = 255;
/// Segments of a session id: deep enough for `tenant/project/…/run`, shallow enough to match patterns quickly.
pub const SESSION_ID_SEGMENTS_MAX: usize = 16;
/// Bytes of one segment of a session id.
pub const SESSION_ID_SEGMENT_BYTES_MAX: usize = 64;
/// Bytes of a frame: a whole batch, with room for JSON's quoting and base64.
pub const FRAME_BYTES_MAX: usize = 8 << 20;
/// Bytes that a client sends until its hello was read: a token has room, and who has shown nothing yet fills no memory.
pub const HELLO_BYTES_MAX: usize = 16 << 10;
/// Bytes of one encoded record as its writer sends it. Larger things are attachments.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Bytes of all records of one publish: bounds what one request holds in memory.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Records of one publish.
pub const BATCH_RECORDS_MAX: usize = 1024;
/// Bytes of records in one delivery, unless one record alone has more: keeps deliveries of sessions interleaved.
pub const DELIVERY_BYTES_MAX: usize = 256 << 10;
/// Subscriptions of one connection.
pub const SUBSCRIPTIONS_MAX: usize = 1000;
/// Requests of one connection that wait for an answer; the broker reads no further frame until one is answered.
pub const REQUESTS_MAX: usize = 1024;
/// Publishes of a producer that are remembered and answered with their original offsets.
pub const PRODUCER_WINDOW: usize = 1024;
/// Bytes of a short id: that of a record, a producer or a device.
pub const SHORT_ID_BYTES_MAX: usize = 64;
/// Bytes of a record's `type` and `mode`.
pub const TYPE_BYTES_MAX: usize = 128;
/// Bytes of a content type: as long as RFC 6838 (section 4.2) lets type and subtype be together.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// Receivers named in one record.
pub const RECEIVERS_MAX: usize = 64;
/// Bytes of a principal's name.
pub const PRINCIPAL_BYTES_MAX: usize = 255;
/// Headers of one record, and labels of one session.
pub const HEADERS_MAX: usize = 64;
/// Bytes of the name of a header or label.
pub const HEADER_NAME_BYTES_MAX: usize = 64;
/// Bytes of the value of a header or label.
pub const HEADER_VALUE_BYTES_MAX: usize = 4096;
/// Bytes of a session's title, and of the reason of a close.
pub const TITLE_BYTES_MAX: usize = 512;
/// Records on one page of a read; fewer when they have more than `delivery_bytes_max`.
pub const READ_PAGE_MAX: usize = 1000;
/// Records on one page of a read when the client names no limit.
pub const READ_PAGE_DEFAULT: usize = 100;
/// Records that one page of a read looks at: a filter that few records pass gives short pages, not long waits.
pub const READ_SCAN_MAX: usize = 16_384;
/// Kinds, types, and ids, that one filter names.
pub const FILTER_VALUES_MAX: usize = 32;
/// Sessions on one page of a list.
pub const LIST_PAGE_MAX: usize = 1000;
/// Sessions on one page of a list when the client names no limit.
pub const LIST_PAGE_DEFAULT: usize = 100;
/// Ranges of offsets that one erase names.
pub const ERASE_RANGES_MAX: usize = 1024;
/// Shortest `retention.age_ms` and `expiry.idle_ms`, in milliseconds: looking more often would cost more than it keeps.
pub const EXPIRY_MS_MIN: usize = 1000;
/// Bytes of a pattern of session ids.
pub const PATTERN_BYTES_MAX: usize = SESSION_ID_BYTES_MAX;
/// Sessions that the subscription of one pattern follows: each costs a cursor.
pub const PATTERN_SESSIONS_MAX: usize = 10_000;
/// Subscriptions of patterns of one connection: each looks at every change of the store.
pub const PATTERNS_MAX: usize = 16;
/// Grants of one principal: each is tried for every request.
pub const GRANTS_MAX: usize = 64;
/// Epochs in the lineage of one log: each fork, import and restore adds one.
pub const LINEAGE_ENTRIES_MAX: usize = 1024;
/// Bytes of an encoded ask: a human reads it, and a session keeps it in memory while it is open.
pub const ASK_BYTES_MAX: usize = 32 << 10;
/// Bytes of an encoded answer.
pub const ANSWER_BYTES_MAX: usize = 32 << 10;
/// Options of an ask, and values of an `enum`.
pub const OPTIONS_MAX: usize = 64;
/// Fields of a form.
pub const FORM_FIELDS_MAX: usize = 32;
/// Roles that an ask names, and that a principal has.
pub const ROLES_MAX: usize = 16;
/// Bytes of an encoded change of a run: its title, its note and its counters.
pub const RUN_CHANGE_BYTES_MAX: usize = 8 << 10;
/// Counters of a run.
pub const COUNTERS_MAX: usize = 16;
/// Asks without an answer in one session: a subscriber is told all of them.
pub const ASKS_OPEN_MAX: usize = 256;
/// Runs of one session that have not ended.
pub const RUNS_OPEN_MAX: usize = 1024;
/// Messages of one session that grow at the same time.
pub const MESSAGES_OPEN_MAX: usize = 1024;
/// Bytes of the asks and runs of one session that are open: a subscriber is told all of them in one frame.
pub const OPEN_BYTES_MAX: usize = 1 << 20;
/// Bytes of the body of a fold: a longer one is told by its length, and read by byte ranges.
pub const FOLD_BYTES_MAX: usize = 64 << 10;
/// Bytes of a message that grows: an attachment is one.
pub const MESSAGE_BYTES_MAX: usize = 100 << 20;
/// Bytes of a message in one answer.
pub const MESSAGE_READ_BYTES_MAX: usize = 1 << 20;
/// Longest `rollup_ms`, in milliseconds: what is gathered for longer does not look live to a human.
pub const ROLLUP_MS_MAX: usize = 500;
/// Agents that a session knows: a subscriber is told all of them.
pub const AGENTS_MAX: usize = 64;
/// Shortest time without a word after which a lease lapses, in milliseconds: a busy holder is not taken for a dead one.
pub const LEASE_TTL_MS_MIN: usize = 1000;
/// Longest such time, in milliseconds: a session with a live lease stays in memory.
pub const LEASE_TTL_MS_MAX: usize = 10 * 60 * 1000;
/// Such a time when the client names none, in milliseconds.
pub const LEASE_TTL_MS_DEFAULT: usize = 30_000;
/// Longest time, in milliseconds, that the claim of a pattern waits for a session that calls: a client that has died without a word is
/// not waited with for longer.
pub const CLAIM_WAIT_MS_MAX: usize = 60 * 60 * 1000;
/// Shortest time that suspended runs wait for the next holder, in milliseconds.
pub const ADOPT_TIMEOUT_MS_MIN: usize = 1000;
/// Longest such time, in milliseconds: 30 days.
pub const ADOPT_TIMEOUT_MS_MAX: usize = 30 * 24 * 60 * 60 * 1000;
/// Such a time when the client names none, in milliseconds: seven days.
pub const ADOPT_TIMEOUT_MS_DEFAULT: usize = 7 * 24 * 60 * 60 * 1000;
/// Inputs of one session that were not consumed: a subscriber is told all of them.
pub const INPUTS_OPEN_MAX: usize = 256;
/// Leases that an input is delivered to before it is given up.
pub const INPUT_ATTEMPTS_MAX: usize = 5;
/// Keys of a session's state: a subscriber is told all of them.
pub const STATE_KEYS_MAX: usize = 256;
/// Bytes of one key.
pub const STATE_KEY_BYTES_MAX: usize = 128;
/// Bytes of what one key is.
pub const STATE_VALUE_BYTES_MAX: usize = 4096;
/// Bytes of all keys of a session, and of what they are: they stay in memory, and a subscriber is told all of them.
pub const STATE_BYTES_MAX: usize = 128 * 1024;
/// Longest time that a cancelled run has to end by itself, in milliseconds.
pub const CANCEL_DEADLINE_MS_MAX: usize = 60 * 60 * 1000;
/// Such a time when the client names none, in milliseconds.
pub const CANCEL_DEADLINE_MS_DEFAULT: usize = 30_000;
/// Worker groups of one tenant: each looks at every change of its sessions.
pub const WORKER_GROUPS_MAX: usize = 64;
/// Webhooks of one worker group that are under way at once.
pub const GROUP_IN_FLIGHT_MAX: usize = 256;
/// Such a number when the client names none.
pub const GROUP_IN_FLIGHT_DEFAULT: usize = 16;
/// Tries of one wake of a worker group before it becomes a dead letter.
pub const GROUP_ATTEMPTS_MAX: usize = 32;
/// Such a number when the client names none: they take some minutes.
pub const GROUP_ATTEMPTS_DEFAULT: usize = 10;
/// Fewest bytes of the secret of a worker group: what cannot be guessed.
pub const WEBHOOK_SECRET_BYTES_MIN: usize = 24;
/// Most bytes of such a secret: as Standard Webhooks has them.
pub const WEBHOOK_SECRET_BYTES_MAX: usize = 64;

/// The limits as the table of `docs/protocol.md` has them: name and value.
pub const TABLE: &[(&str, usize)] = &[
    ("session_id_bytes_max", SESSION_ID_BYTES_MAX),
    ("session_id_segments_max", SESSION_ID_SEGMENTS_MAX),
    ("session_id_segment_bytes_max", SESSION_ID_SEGMENT_BYTES_MAX),
    ("frame_bytes_max", FRAME_BYTES_MAX),
    ("hello_bytes_max", HELLO_BYTES_MAX),
    ("record_bytes_max", RECORD_BYTES_MAX),
    ("batch_bytes_max", BATCH_BYTES_MAX),
    ("batch_records_max", BATCH_RECORDS_MAX),
    ("delivery_bytes_max", DELIVERY_BYTES_MAX),
    ("subscriptions_max", SUBSCRIPTIONS_MAX),
    ("requests_max", REQUESTS_MAX),
    ("producer_window", PRODUCER_WINDOW),
    ("short_id_bytes_max", SHORT_ID_BYTES_MAX),
    ("type_bytes_max", TYPE_BYTES_MAX),
    ("content_type_bytes_max", CONTENT_TYPE_BYTES_MAX),
    ("receivers_max", RECEIVERS_MAX),
    ("principal_bytes_max", PRINCIPAL_BYTES_MAX),
    ("headers_max", HEADERS_MAX),
    ("header_name_bytes_max", HEADER_NAME_BYTES_MAX),
    ("header_value_bytes_max", HEADER_VALUE_BYTES_MAX),
    ("title_bytes_max", TITLE_BYTES_MAX),
    ("read_page_max", READ_PAGE_MAX),
    ("read_page_default", READ_PAGE_DEFAULT),
    ("read_scan_max", READ_SCAN_MAX),
    ("filter_values_max", FILTER_VALUES_MAX),
    ("list_page_max", LIST_PAGE_MAX),
    ("list_page_default", LIST_PAGE_DEFAULT),
    ("erase_ranges_max", ERASE_RANGES_MAX),
    ("expiry_ms_min", EXPIRY_MS_MIN),
    ("pattern_bytes_max", PATTERN_BYTES_MAX),
    ("pattern_sessions_max", PATTERN_SESSIONS_MAX),
    ("patterns_max", PATTERNS_MAX),
    ("grants_max", GRANTS_MAX),
    ("lineage_entries_max", LINEAGE_ENTRIES_MAX),
    ("ask_bytes_max", ASK_BYTES_MAX),
    ("answer_bytes_max", ANSWER_BYTES_MAX),
    ("options_max", OPTIONS_MAX),
    ("form_fields_max", FORM_FIELDS_MAX),
    ("roles_max", ROLES_MAX),
    ("run_change_bytes_max", RUN_CHANGE_BYTES_MAX),
    ("counters_max", COUNTERS_MAX),
    ("asks_open_max", ASKS_OPEN_MAX),
    ("runs_open_max", RUNS_OPEN_MAX),
    ("messages_open_max", MESSAGES_OPEN_MAX),
    ("open_bytes_max", OPEN_BYTES_MAX),
    ("fold_bytes_max", FOLD_BYTES_MAX),
    ("message_bytes_max", MESSAGE_BYTES_MAX),
    ("message_read_bytes_max", MESSAGE_READ_BYTES_MAX),
    ("rollup_ms_max", ROLLUP_MS_MAX),
    ("agents_max", AGENTS_MAX),
    ("lease_ttl_ms_min", LEASE_TTL_MS_MIN),
    ("lease_ttl_ms_max", LEASE_TTL_MS_MAX),
    ("lease_ttl_ms_default", LEASE_TTL_MS_DEFAULT),
    ("claim_wait_ms_max", CLAIM_WAIT_MS_MAX),
    ("adopt_timeout_ms_min", ADOPT_TIMEOUT_MS_MIN),
    ("adopt_timeout_ms_max", ADOPT_TIMEOUT_MS_MAX),
    ("adopt_timeout_ms_default", ADOPT_TIMEOUT_MS_DEFAULT),
    ("inputs_open_max", INPUTS_OPEN_MAX),
    ("input_attempts_max", INPUT_ATTEMPTS_MAX),
    ("state_keys_max", STATE_KEYS_MAX),
    ("state_key_bytes_max", STATE_KEY_BYTES_MAX),
    ("state_value_bytes_max", STATE_VALUE_BYTES_MAX),
    ("state_bytes_max", STATE_BYTES_MAX),
    ("cancel_deadline_ms_max", CANCEL_DEADLINE_MS_MAX),
    ("cancel_deadline_ms_default", CANCEL_DEADLINE_MS_DEFAULT),
    ("worker_groups_max", WORKER_GROUPS_MAX),
    ("group_in_flight_max", GROUP_IN_FLIGHT_MAX),
    ("group_in_flight_default", GROUP_IN_FLIGHT_DEFAULT),
    ("group_attempts_max", GROUP_ATTEMPTS_MAX),
    ("group_attempts_default", GROUP_ATTEMPTS_DEFAULT),
    ("webhook_secret_bytes_min", WEBHOOK_SECRET_BYTES_MIN),
    ("webhook_secret_bytes_max", WEBHOOK_SECRET_BYTES_MAX),
];
