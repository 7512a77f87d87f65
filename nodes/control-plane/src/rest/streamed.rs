//! Answers that are longer than memory: handed on chunk by chunk, and never ending like a whole one when they are not.

use std::time::Duration;

use aa_governance::GovernanceError;
use axum::body::Body;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// What is on its way, with what shows at its end whether it is whole.
pub(super) struct Streamed {
    pub(super) chunks: mpsc::Receiver<Result<Bytes, GovernanceError>>,
    /// Lines still to come, where the format has nothing that closes it.
    pub(super) lines_left: Option<u64>,
    /// Its place among the answers of this kind.
    pub(super) held: OwnedSemaphorePermit,
}

/// How long a chunk waits for its reader.
const STALL: Duration = Duration::from_secs(60);

/// The body ends in an error, which breaks the connection.
#[derive(Debug, thiserror::Error)]
enum CutShort {
    #[error(transparent)]
    Failed(#[from] GovernanceError),
    #[error("it ended early, with {0} entries to come")]
    Early(u64),
    #[error("it was not read for {STALL:?}")]
    Unread,
}

/// The next part; `None` is the end.
type Next = Result<Option<Bytes>, CutShort>;

// === impl Streamed ===

impl Streamed {
    /// The body of the answer.
    pub(super) fn body(self) -> Body {
        let (out, chunks) = mpsc::channel(1);
        tokio::spawn(self.hand_to(out));
        let chunks = futures::stream::try_unfold(chunks, |mut chunks| async move {
            // Only what is whole ends with the end's own sign.
            let next = chunks.recv().await.unwrap_or(Err(CutShort::Unread))?;
            Ok::<_, CutShort>(next.map(|chunk| (chunk, chunks)))
        });
        Body::from_stream(chunks)
    }

    /// Hands chunk after chunk to the response. A reader that stops reading must not keep its place: after
    /// [`STALL`] it is given up.
    async fn hand_to(mut self, out: mpsc::Sender<Next>) {
        loop {
            let next = self.next().await;
            let goes_on = matches!(next, Ok(Some(_)));
            let taken = tokio::time::timeout(STALL, out.send(next)).await;
            if !goes_on || !matches!(taken, Ok(Ok(()))) {
                break;
            }
        }
        drop(self.held);
    }

    async fn next(&mut self) -> Result<Option<Bytes>, CutShort> {
        let cut_short = |error: CutShort| {
            tracing::error!(%error, "a long answer was cut short");
            error
        };
        match self.chunks.recv().await {
            Some(Ok(chunk)) => {
                if let Some(left) = &mut self.lines_left {
                    let lines = chunk.iter().filter(|&&byte| byte == b'\n').count();
                    *left = left.saturating_sub(lines as u64);
                }
                Ok(Some(chunk))
            }
            Some(Err(error)) => Err(cut_short(error.into())),
            None => match self.lines_left {
                Some(left) if left > 0 => Err(cut_short(CutShort::Early(left))),
                _ => Ok(None),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aa_governance::tenant::CheckpointFailed;
    use tokio::sync::Semaphore;

    use super::*;

    type Chunks = Vec<Result<Bytes, GovernanceError>>;

    /// An export of two entries whose task sends these chunks, and its place among the exports.
    async fn streamed(chunks: Chunks, lines_left: Option<u64>) -> (Streamed, Arc<Semaphore>) {
        let (sender, receiver) = mpsc::channel(8);
        for chunk in chunks {
            sender.send(chunk).await.unwrap();
        }
        drop(sender);
        let places = Arc::new(Semaphore::new(1));
        let held = Arc::clone(&places).acquire_owned().await.unwrap();
        (Streamed { chunks: receiver, lines_left, held }, places)
    }

    /// What a reader gets of it.
    async fn read(chunks: Chunks, lines_left: Option<u64>) -> Result<Vec<u8>, CutShort> {
        let (streamed, _places) = streamed(chunks, lines_left).await;
        let (out, mut chunks) = mpsc::channel(1);
        tokio::spawn(streamed.hand_to(out));
        let mut got = Vec::new();
        while let Some(chunk) = chunks.recv().await.unwrap_or(Err(CutShort::Unread))? {
            got.extend_from_slice(&chunk);
        }
        Ok(got)
    }

    fn chunk(text: &'static str) -> Result<Bytes, GovernanceError> {
        Ok(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn an_export_that_fails_never_ends_like_a_whole_one() {
        let failed = CheckpointFailed("the store went away".to_owned());
        let cut = read(vec![chunk("a\n"), Err(failed.into())], None).await;
        assert!(matches!(cut, Err(CutShort::Failed(_))));
    }

    #[tokio::test]
    async fn a_cef_export_without_all_its_entries_never_ends_like_a_whole_one() {
        let whole = read(vec![chunk("a\n"), chunk("b\n")], Some(2)).await.unwrap();
        assert_eq!(whole, b"a\nb\n");
        let cut = read(vec![chunk("a\n")], Some(2)).await;
        assert!(matches!(cut, Err(CutShort::Early(1))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_reading_loses_its_place_and_its_export() {
        let (streamed, places) = streamed(vec![chunk("a\n"), chunk("b\n")], None).await;
        let (out, mut chunks) = mpsc::channel(1);
        tokio::spawn(streamed.hand_to(out));
        let _place = places.acquire().await.unwrap();
        assert!(matches!(chunks.recv().await, Some(Ok(Some(_)))));
        assert!(chunks.recv().await.is_none(), "it does not end like a whole one");
    }
}
