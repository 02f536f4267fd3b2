//! A stream whose end is not lost. A socket that is closed while it has input that nobody read is reset, and a reset throws away
//! what was sent before it: the peer that is told why it is refused would never hear it, and most refusals are of somebody who is
//! still sending. So after the last word the rest is read, and thrown away, until the peer has closed too.

use std::io;
use std::time::Duration;

use longwire_proto::limits::FRAME_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long a peer may take to hear the last word.
const LINGER_TIME: Duration = Duration::from_secs(1);
/// Bytes that are thrown away for that: the rest of a frame that was too large, and as much that was sent behind it.
const LINGER_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;
/// Bytes that are thrown away at once.
const PIECE_BYTES: usize = 4 << 10;

/// Ends a stream once all that was said to the peer has been heard, or the peer takes too long.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let heard = async {
        stream.shutdown().await?;
        let (mut piece, mut thrown) = ([0; PIECE_BYTES], 0);
        while thrown < LINGER_BYTES_MAX {
            match stream.read(&mut piece).await? {
                0 => break,
                read => thrown += read,
            }
        }
        io::Result::Ok(())
    };
    // Whoever is gone, or does not go, has been told as well as it can be.
    drop(timeout(LINGER_TIME, heard).await);
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rest_is_thrown_away_until_the_peer_has_closed_or_the_time_is_over() {
        let (mut peer, mut stream) = duplex(64);
        stream.write_all(b"goodbye").await.unwrap();
        let sending = tokio::spawn(async move {
            peer.write_all(&[0; 100_000]).await.unwrap();
            let mut heard = String::new();
            peer.read_to_string(&mut heard).await.unwrap();
            heard
        });
        let began = Instant::now();
        linger(stream).await;
        assert_eq!(sending.await.unwrap(), "goodbye");
        assert!(began.elapsed() < LINGER_TIME);
        let (_peer, stream) = duplex(64);
        let began = Instant::now();
        linger(stream).await;
        assert_eq!(began.elapsed(), LINGER_TIME);
    }
}
