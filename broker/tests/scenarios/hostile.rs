//! A live broker against frames that were made to hurt it.

use bytes::Bytes;
use longwire_proto::codec::{Encoding, encode_client};
use longwire_proto::limits::FRAME_BYTES_MAX;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::support::broker::{Broker, folder};
use crate::support::rng::Rng;
use crate::support::wire_client::{WireClient, published, record};

const CONNECTIONS: usize = 1000;

fn hostile(rng: &mut Rng, encoding: Encoding) -> Message {
    let publish = wire::Publish {
        request: rng.next(),
        session: "victim".into(),
        records: vec![record("x"); 3],
        producer: Some(wire::Producer { id: "p".into(), epoch: 0, sequence: 0 }),
        if_end: Some(u64::MAX),
        act_as: String::new(),
        lease: None,
    };
    let valid = encode_client(encoding, ClientFrame::Publish(publish)).to_vec();
    let place = usize::try_from(rng.below(valid.len() as u64)).unwrap();
    let bytes = match rng.below(5) {
        0 => valid[..place].to_vec(),
        1 => {
            let mut flipped = valid;
            flipped[place] ^= 1 << rng.below(8);
            flipped
        }
        2 => {
            let length = usize::try_from(rng.below(200)).unwrap();
            rng.bytes(length)
        }
        3 => [&valid[..place], &[0xff; 12], &valid[place..]].concat(),
        _ => [vec![b'['; 5000], valid].concat(),
    };
    match (rng.below(8), encoding) {
        (0, Encoding::Proto) | (1.., Encoding::Json) => {
            Message::Text(String::from_utf8_lossy(&bytes).into_owned().into())
        }
        _ => Message::Binary(bytes.into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hostile_connections_leave_the_broker_as_it_was() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut rng = Rng::from_env(7);
    for number in 0..CONNECTIONS {
        let encoding = Encoding::ALL[number % 2];
        let mut client = WireClient::connect(broker.address(), encoding).await;
        for _ in 0..=rng.below(3) {
            client.send_message(hostile(&mut rng, encoding)).await;
        }
        if rng.below(2) == 0 {
            // Half a WebSocket frame, and gone.
            let raw = rng.bytes(5);
            if let tokio_tungstenite::MaybeTlsStream::Plain(stream) = client.socket().get_mut() {
                drop(stream.write_all(&raw).await);
            }
        }
    }
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    assert_eq!(published(client.publish("bystander", &["x"]).await).from, 0);
    assert!(broker.terminate(), "the broker left as it should");
}

#[tokio::test]
async fn an_oversized_message_is_refused_before_it_is_taken() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    // The header of a masked binary message of 1 GiB; the broker answers without waiting for the rest.
    let header = [&[0x82, 0xff][..], &(1u64 << 30).to_be_bytes(), &[0; 4]].concat();
    if let tokio_tungstenite::MaybeTlsStream::Plain(stream) = client.socket().get_mut() {
        stream.write_all(&header).await.unwrap();
    }
    let ended = client.ended().await;
    assert_eq!((ended.code(), ended.close_code()), ("frame_too_large", 1009));
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    client.send_bytes(Bytes::from(vec![0; FRAME_BYTES_MAX + 1])).await;
    let ended = client.ended().await;
    assert!(ended.code() == "frame_too_large" || ended.goodbye.is_none(), "{ended:?}");
}
