//! A TCP proxy that does to a link what networks do: it delays, throttles, swallows and cuts, each direction by itself,
//! changed while connections are open.
//!
//! It knows nothing of what it carries.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{Semaphore, mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

/// A link that can be disturbed. It ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    toward: watch::Sender<Passage>,
    back: watch::Sender<Passage>,
    carried: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

/// One direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From callers to the target.
    Toward,
    /// From the target to callers.
    Back,
}

/// What becomes of bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passage {
    /// They pass at once.
    #[default]
    Pass,
    /// They arrive later by a time between the two, in their order.
    Delay {
        /// The shortest.
        least: Duration,
        /// The longest.
        most: Duration,
    },
    /// At most so many pass in a second, 1 at least.
    Throttle {
        /// Bytes.
        per_second: u32,
    },
    /// None arrives, and nobody is told. Those on their way arrive once this has ended, as those do that TCP sends
    /// again.
    Drop,
    /// Connections are reset, new ones as well. It ends both directions, as a reset does.
    Cut,
}

/// What one direction of a connection goes by.
#[derive(Clone)]
struct Way {
    passage: watch::Receiver<Passage>,
    chance: fastrand::Rng,
    carried: Arc<AtomicU64>,
}

/// What is read at a time, in bytes.
const PIECE: usize = 16 << 10;

/// Pieces under way in one direction of a connection: what is held while they are delayed is bounded by this.
const UNDER_WAY: usize = 64;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 256;

// === impl FaultProxy ===

impl FaultProxy {
    /// Listens at `address` and carries what comes to `target`, which need not listen yet. Delays are drawn from
    /// `seed`.
    ///
    /// # Errors
    /// It cannot listen.
    pub async fn start(address: SocketAddr, target: SocketAddr, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (toward, back) = (watch::Sender::default(), watch::Sender::default());
        let ways = [&toward, &back].map(watch::Sender::subscribe);
        let carried = Arc::<AtomicU64>::default();
        let mut chance = fastrand::Rng::with_seed(seed);
        let ways = ways.map(|passage| {
            let (carried, chance) = (Arc::clone(&carried), chance.fork());
            Way { passage, chance, carried }
        });
        let accepting = tokio::spawn(accept(listener, target, ways));
        Ok(Self { address, toward, back, carried, accepting })
    }

    /// Where callers connect.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many bytes have arrived, of both directions.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Changes what becomes of bytes in one direction, of open connections too.
    pub fn set(&self, direction: Direction, passage: Passage) {
        match direction {
            Direction::Toward => self.toward.send_replace(passage),
            Direction::Back => self.back.send_replace(passage),
        };
    }

    /// The same for both directions.
    pub fn set_both(&self, passage: Passage) {
        self.set(Direction::Toward, passage);
        self.set(Direction::Back, passage);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts until it is dropped, and its connections with it.
async fn accept(listener: TcpListener, target: SocketAddr, mut ways: [Way; 2]) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let Ok((caller, _)) = listener.accept().await else {
            // The process has no file left; one that ends gives one back.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let ways = ways.each_mut().map(|way| Way { chance: way.chance.fork(), ..way.clone() });
        connections.spawn(async move {
            carry(caller, target, ways).await;
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut caller: TcpStream, target: SocketAddr, [toward, back]: [Way; 2]) {
    let cut = {
        let [mut toward, mut back] = [toward.passage.clone(), back.passage.clone()];
        async move {
            tokio::select! {
                () = until(&mut toward, |passage| passage == Passage::Cut) => {}
                () = until(&mut back, |passage| passage == Passage::Cut) => {}
            }
        }
    };
    tokio::pin!(cut);
    let reached = tokio::select! {
        biased;
        () = &mut cut => None,
        reached = TcpStream::connect(target) => reached.ok(),
    };
    let Some(mut reached) = reached else {
        // Whoever calls a machine on which nobody listens is refused; here that comes a moment later.
        let _ = caller.set_zero_linger();
        return;
    };
    let _ = (caller.set_nodelay(true), reached.set_nodelay(true));
    let was_cut = {
        let (from_caller, to_caller) = caller.split();
        let (from_target, to_target) = reached.split();
        let both = async {
            let (forth, back) =
                (pump(from_caller, to_target, toward), pump(from_target, to_caller, back));
            tokio::try_join!(forth, back).is_err()
        };
        tokio::select! {
            biased;
            () = cut => true,
            broken = both => broken,
        }
    };
    if was_cut {
        let _ = (caller.set_zero_linger(), reached.set_zero_linger());
    }
}

/// One direction of a connection, to its end.
async fn pump(from: ReadHalf<'_>, to: WriteHalf<'_>, way: Way) -> io::Result<()> {
    let (pieces, queue) = mpsc::channel(UNDER_WAY);
    tokio::try_join!(take(from, pieces, way.clone()), give(queue, to, way)).map(drop)
}

async fn take(
    mut from: ReadHalf<'_>,
    pieces: mpsc::Sender<(Instant, Bytes)>,
    mut way: Way,
) -> io::Result<()> {
    let mut last_due = Instant::now();
    loop {
        way.opens().await;
        let mut piece = BytesMut::with_capacity(PIECE);
        if from.read_buf(&mut piece).await? == 0 {
            return Ok(());
        }
        let passage = *way.passage.borrow();
        let now = Instant::now();
        let due = match passage {
            Passage::Delay { least, most } => {
                let spread = most.saturating_sub(least).mul_f64(way.chance.f64());
                now + least + spread
            }
            Passage::Throttle { per_second } => {
                let share = piece.len() as f64 / f64::from(per_second.max(1));
                last_due.max(now) + Duration::from_secs_f64(share)
            }
            Passage::Pass | Passage::Drop | Passage::Cut => now,
        };
        last_due = last_due.max(due);
        if pieces.send((last_due, piece.freeze())).await.is_err() {
            return Ok(());
        }
    }
}

async fn give(
    mut queue: mpsc::Receiver<(Instant, Bytes)>,
    mut to: WriteHalf<'_>,
    mut way: Way,
) -> io::Result<()> {
    while let Some((due, piece)) = queue.recv().await {
        tokio::time::sleep_until(due).await;
        way.opens().await;
        to.write_all(&piece).await?;
        way.carried.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    way.opens().await;
    to.shutdown().await
}

// === impl Way ===

impl Way {
    /// Waits until bytes arrive at all.
    async fn opens(&mut self) {
        until(&mut self.passage, |passage| passage != Passage::Drop).await;
    }
}

/// Waits for a passage; for ever once nobody can change it any more, for then the proxy ends.
async fn until(passage: &mut watch::Receiver<Passage>, wanted: impl Fn(Passage) -> bool) {
    if passage.wait_for(|now| wanted(*now)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a test waits for what must come.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// How long a test looks whether something comes that must not.
    const A_WHILE: Duration = Duration::from_millis(150);

    /// A server that sends back what it gets, and a link to it.
    async fn linked() -> (FaultProxy, JoinHandle<()>) {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listener = TcpListener::bind(any).await.unwrap();
        let target = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        (FaultProxy::start(any, target, 7).await.unwrap(), serving)
    }

    async fn ask(stream: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut answer = vec![0; text.len()];
        let reading = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer));
        reading.await.expect("an answer comes")?;
        Ok(answer)
    }

    async fn hears_nothing(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        tokio::time::timeout(A_WHILE, stream.read(&mut byte)).await.is_err()
    }

    #[tokio::test]
    async fn everything_passes_in_order_and_ends_as_it_ended() {
        let (proxy, _serving) = linked().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let text: Vec<u8> = (0..1_000_000_u32).map(|at| at as u8).collect();
        let (mut from, mut to) = stream.split();
        let sending = async {
            to.write_all(&text).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let both = async { tokio::join!(sending, from.read_to_end(&mut heard)) };
        let ((), read) = tokio::time::timeout(PATIENCE, both).await.unwrap();
        assert_eq!(read.unwrap(), text.len());
        assert!(heard == text);
        assert_eq!(proxy.carried(), 2 * text.len() as u64);
    }

    #[tokio::test]
    async fn what_is_swallowed_is_not_refused_and_arrives_once_the_link_is_whole() {
        let (proxy, _serving) = linked().await;
        for direction in [Direction::Toward, Direction::Back] {
            let mut old = TcpStream::connect(proxy.address()).await.unwrap();
            assert_eq!(ask(&mut old, b"before").await.unwrap(), b"before");
            proxy.set(direction, Passage::Drop);
            let mut new = TcpStream::connect(proxy.address()).await.unwrap();
            for stream in [&mut old, &mut new] {
                stream.write_all(b"hello").await.unwrap();
                assert!(hears_nothing(stream).await);
            }
            proxy.set(direction, Passage::Pass);
            for stream in [&mut old, &mut new] {
                let mut answer = [0; 5];
                let reading = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer));
                reading.await.unwrap().unwrap();
                assert_eq!(&answer, b"hello");
            }
        }
    }

    #[tokio::test]
    async fn a_cut_resets_what_is_open_and_what_is_opened_until_it_ends() {
        let (proxy, _serving) = linked().await;
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut old, b"before").await.unwrap(), b"before");
        proxy.set(Direction::Back, Passage::Cut);
        let mut byte = [0];
        let reset = tokio::time::timeout(PATIENCE, old.read(&mut byte)).await.unwrap();
        assert_eq!(reset.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let refused = async {
            let mut new = TcpStream::connect(proxy.address()).await?;
            ask(&mut new, b"hello").await
        };
        assert!(refused.await.is_err());
        proxy.set_both(Passage::Pass);
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut new, b"after").await.unwrap(), b"after");
    }

    #[tokio::test]
    async fn delays_and_limits_hold_at_least() {
        let (proxy, _serving) = linked().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let (least, most) = (Duration::from_millis(60), Duration::from_millis(90));
        proxy.set_both(Passage::Delay { least, most });
        let asked = Instant::now();
        assert_eq!(ask(&mut stream, b"hello").await.unwrap(), b"hello");
        assert!(asked.elapsed() >= 2 * least);
        proxy.set_both(Passage::Pass);
        proxy.set(Direction::Toward, Passage::Throttle { per_second: 100_000 });
        let asked = Instant::now();
        let text = vec![7; 20_000];
        assert_eq!(ask(&mut stream, &text).await.unwrap(), text);
        assert!(asked.elapsed() >= Duration::from_millis(190));
    }

    #[tokio::test]
    async fn a_target_that_does_not_listen_is_a_reset_and_so_is_the_end_of_the_proxy() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let nobody = TcpListener::bind(any).await.unwrap().local_addr().unwrap();
        let proxy = FaultProxy::start(any, nobody, 7).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(ask(&mut stream, b"hello").await.is_err());
        let (proxy, _serving) = linked().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream, b"hello").await.unwrap(), b"hello");
        drop(proxy);
        let mut byte = [0];
        let ended = tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)));
    }
}
