//! Response bodies that go on: a channel of chunks, and who fills it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use tokio::sync::mpsc;

/// Chunks that wait for a slow client.
const CHUNKS: usize = 16;
/// A client that takes nothing for so long is hung up on.
const TAKE_WITHIN: Duration = Duration::from_secs(30);

struct Feed(mpsc::Receiver<Bytes>);

impl http_body::Body for Feed {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// The end of a feed into which is written.
#[derive(Debug, Clone)]
pub(crate) struct Writer(mpsc::Sender<Bytes>);

/// The client is gone, or takes nothing.
#[derive(Debug)]
pub(crate) struct Gone;

impl Writer {
    /// Sends a chunk, when the client has room for it.
    pub(crate) async fn send(&self, chunk: Bytes) -> Result<(), Gone> {
        self.0.send_timeout(chunk, TAKE_WITHIN).await.map_err(|_| Gone)
    }

    /// Returns when the client is gone.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// A body, and the writer that fills it.
pub(crate) fn feed() -> (Writer, Body) {
    let (writer, reader) = mpsc::channel(CHUNKS);
    (Writer(writer), Body::new(Feed(reader)))
}
