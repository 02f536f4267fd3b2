//! Generates the frames twice from one `.proto`: typed (with the proto3 JSON mapping), and *raw*, where records stay
//! encoded. Bytes and an embedded message share a wire format, so both read the same frames, and what a broker does not
//! know of a record survives.

use std::error::Error;
use std::path::PathBuf;

use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;

const PROTO: &str = "longwire/v1/longwire.proto";
/// The service of gRPC, which nothing is generated of: its messages are frames, and pass as bytes.
const SERVICE: &str = "longwire/v1/service.proto";
/// Messages that carry records, and those that carry these.
const RAW_MESSAGES: [&str; 6] =
    ["ClientFrame", "ServerFrame", "Publish", "Delivery", "Page", "ImportRecords"];
const RAW_FIELDS: [(&str, &str); 4] =
    [("Publish", "records"), ("Delivery", "records"), ("Page", "records"), ("ImportRecords", "records")];

/// Messages that carry a token or a key: whoever has it is somebody, so what they show of themselves is written by hand
/// (`src/redacted.rs`).
const SECRET_MESSAGES: [&str; 5] = [
    ".longwire.v1.Hello",
    ".longwire.v1.Authenticate",
    ".longwire.v1.Shared",
    ".longwire.v1.RevokeToken",
    ".longwire.v1.SetWorkerGroup",
];

/// What few frames have: without it in a box every frame would be as large.
const RARE_FIELDS: [&str; 3] =
    [".longwire.v1.Error.resolved", ".longwire.v1.Subscribed.state", ".longwire.v1.Session.state"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile([PROTO], ["proto"])?;

    let mut typed = prost_build::Config::new();
    typed.bytes(["."]).btree_map(["."]).skip_debug(SECRET_MESSAGES);
    for field in RARE_FIELDS {
        typed.boxed(field);
    }
    typed.compile_fds(descriptors.clone())?;
    let mut encoded = Vec::new();
    prost::Message::encode(&descriptors, &mut encoded)?;
    pbjson_build::Builder::new().btree_map(["."]).register_descriptors(&encoded)?.build(&[".longwire.v1"])?;

    let raw_out = out.join("raw");
    std::fs::create_dir_all(&raw_out)?;
    let mut raw = prost_build::Config::new();
    // The largest by far, and every frame would be as large as it.
    raw.bytes(["."])
        .btree_map(["."])
        .boxed(".longwire.v1.ClientFrame.frame.import_records")
        .out_dir(&raw_out);
    for message in messages(&descriptors) {
        if !RAW_MESSAGES.contains(&message.as_str()) {
            raw.extern_path(format!(".longwire.v1.{message}"), format!("crate::wire::{message}"));
        }
    }
    raw.compile_fds(with_raw_records(descriptors))?;

    // Without places and comments: whoever asks for it shall not make the broker send much.
    let mut service = protox::compile([SERVICE], ["proto"])?;
    service.file.iter_mut().for_each(|file| file.source_code_info = None);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&service))?;
    Ok(())
}

fn messages(descriptors: &FileDescriptorSet) -> Vec<String> {
    let files = descriptors.file.iter();
    files.flat_map(|file| &file.message_type).map(|message| message.name().to_owned()).collect()
}

fn with_raw_records(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    for message in descriptors.file.iter_mut().flat_map(|file| &mut file.message_type) {
        let name = message.name().to_owned();
        for field in &mut message.field {
            if RAW_FIELDS.contains(&(name.as_str(), field.name())) {
                field.set_type(Type::Bytes);
                field.type_name = None;
            }
        }
    }
    descriptors
}
