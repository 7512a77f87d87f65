//! Events that wait to be delivered: how calls ended, and actions let through without a gateway.

use std::{collections::VecDeque, time::Duration};

use aa_protocol::wire::v1;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;

/// A bounded queue. It lives in memory only: what it holds when the process dies is lost.
#[derive(Debug)]
pub(crate) struct Backlog {
    queue: Mutex<Queue>,
    /// Events queued or on their way.
    depth: watch::Sender<usize>,
    /// Callers that wait until there are none.
    waiting: watch::Sender<usize>,
}

/// A caller that waits, for as long as this lives.
struct Waiting<'a>(&'a Backlog);

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<v1::Event>,
    bytes: usize,
}

/// The queue takes no more; the number of events that wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Full(pub(crate) usize);

const MAX_EVENTS: usize = 10_000;
const MAX_BYTES: usize = 16 << 20;
/// How long events gather before they go. What is asked about next, mostly the result of the call that an
/// event is about, does not find the gateway busy with the event then.
const GATHER: Duration = Duration::from_millis(5);

// === impl Backlog ===

impl Backlog {
    pub(crate) fn new() -> Self {
        Self {
            queue: Mutex::default(),
            depth: watch::Sender::new(0),
            waiting: watch::Sender::new(0),
        }
    }

    pub(crate) fn push(&self, event: v1::Event) -> Result<(), Full> {
        let size = event.encoded_len();
        let mut queue = self.queue.lock();
        if queue.events.len() >= MAX_EVENTS || queue.bytes + size > MAX_BYTES {
            return Err(Full(queue.events.len()));
        }
        queue.bytes += size;
        queue.events.push_back(event);
        drop(queue);
        self.depth.send_modify(|depth| *depth += 1);
        Ok(())
    }

    /// Waits for events, lets some gather, and takes up to `most`, oldest first. They count until
    /// [`Backlog::settle`].
    pub(crate) async fn take(&self, most: usize) -> Vec<v1::Event> {
        let mut depth = self.depth.subscribe();
        let mut waiting = self.waiting.subscribe();
        loop {
            if !self.queue.lock().events.is_empty() {
                tokio::select! {
                    () = tokio::time::sleep(GATHER) => {}
                    _ = depth.wait_for(|depth| *depth >= most) => {}
                    _ = waiting.wait_for(|waiting| *waiting > 0) => {}
                }
            }
            let taken = self.take_now(most);
            if !taken.is_empty() {
                return taken;
            }
            if depth.changed().await.is_err() {
                return Vec::new();
            }
        }
    }

    fn take_now(&self, most: usize) -> Vec<v1::Event> {
        let mut queue = self.queue.lock();
        let count = most.min(queue.events.len());
        let taken: Vec<_> = queue.events.drain(..count).collect();
        let bytes: usize = taken.iter().map(v1::Event::encoded_len).sum();
        queue.bytes = queue.bytes.saturating_sub(bytes);
        taken
    }

    /// Puts events that could not be delivered back to the front.
    pub(crate) fn put_back(&self, events: Vec<v1::Event>) {
        let mut queue = self.queue.lock();
        for event in events.into_iter().rev() {
            queue.bytes += event.encoded_len();
            queue.events.push_front(event);
        }
    }

    /// Marks taken events as dealt with.
    pub(crate) fn settle(&self, count: usize) {
        self.depth.send_modify(|depth| *depth = depth.saturating_sub(count));
    }

    /// Waits until nothing is queued or on its way.
    pub(crate) async fn empty(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let _waiting = Waiting(self);
        let mut depth = self.depth.subscribe();
        let _ = depth.wait_for(|depth| *depth == 0).await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_backlog_is_bounded_and_keeps_its_order() {
        let backlog = Backlog::new();
        let event = |duration_us| v1::Event { duration_us, ..Default::default() };
        for index in 0..MAX_EVENTS as u64 {
            backlog.push(event(index)).unwrap();
        }
        assert!(backlog.push(event(0)).is_err());
        let first = backlog.take(2).await;
        backlog.put_back(first);
        let again: Vec<_> = backlog.take(3).await.iter().map(|event| event.duration_us).collect();
        assert_eq!(again, [0, 1, 2]);
        backlog.settle(MAX_EVENTS);
        backlog.empty().await;
    }

    #[tokio::test(start_paused = true)]
    async fn events_gather_for_a_moment_unless_somebody_waits_for_them() {
        let backlog = Backlog::new();
        let begun = tokio::time::Instant::now();
        backlog.push(v1::Event::default()).unwrap();
        assert_eq!(backlog.take(8).await.len(), 1);
        assert!(begun.elapsed() >= GATHER);
        backlog.settle(1);
        let begun = tokio::time::Instant::now();
        backlog.push(v1::Event::default()).unwrap();
        let taking = async {
            assert_eq!(backlog.take(8).await.len(), 1);
            backlog.settle(1);
        };
        tokio::join!(backlog.empty(), taking);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(*backlog.waiting.borrow(), 0);
    }
}
