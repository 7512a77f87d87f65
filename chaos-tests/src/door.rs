//! A TCP address in front of another that can be shut, and frozen, from one moment to the next.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// An address of its own that leads to another. It shuts when dropped.
#[derive(Debug)]
pub struct Door {
    address: SocketAddr,
    target: SocketAddr,
    frozen: watch::Sender<bool>,
    open: Arc<AtomicUsize>,
    serving: Option<JoinHandle<()>>,
}

/// Counts a connection for as long as it lives.
struct Counted(Arc<AtomicUsize>);

// === impl Door ===

impl Door {
    /// Opens a door to `target` on a free port of this machine.
    ///
    /// # Errors
    /// There is none.
    pub async fn to(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut door = Self {
            address: listener.local_addr()?,
            target,
            frozen: watch::Sender::new(false),
            open: Arc::default(),
            serving: None,
        };
        door.serve(listener);
        Ok(door)
    }

    /// Its own address.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections go through it.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Ends every connection, as the end of a process does; new ones are refused.
    pub async fn shut(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // It was told to end.
            let _ = serving.await;
        }
    }

    /// Lets connections in again.
    ///
    /// # Errors
    /// Its address is another's by now.
    pub async fn reopen(&mut self) -> io::Result<()> {
        self.frozen.send_replace(false);
        if self.serving.is_none() {
            let listener = TcpListener::bind(self.address).await?;
            self.serve(listener);
        }
        Ok(())
    }

    /// Passes nothing on any more and keeps every connection, as a network does that loses everything.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    fn serve(&mut self, listener: TcpListener) {
        let (target, open, frozen) = (self.target, Arc::clone(&self.open), self.frozen.subscribe());
        self.serving = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let (open, frozen) = (Arc::clone(&open), frozen.clone());
                connections.spawn(async move {
                    open.fetch_add(1, Ordering::Relaxed);
                    let _counted = Counted(open);
                    // A connection that fails is one that ends.
                    let _ = join(near, target, frozen).await;
                });
                while connections.try_join_next().is_some() {}
            }
        }));
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn join(
    near: TcpStream,
    target: SocketAddr,
    frozen: watch::Receiver<bool>,
) -> io::Result<()> {
    let far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    tokio::try_join!(pass(from_near, to_far, frozen.clone()), pass(from_far, to_near, frozen))?;
    Ok(())
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut frozen: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut piece = vec![0; 16 << 10];
    loop {
        let length = from.read(&mut piece).await?;
        // Without its door nothing passes either.
        frozen.wait_for(|frozen| !frozen).await.map_err(io::Error::other)?;
        match piece.get(..length) {
            Some(read) if !read.is_empty() => to.write_all(read).await?,
            _ => return to.shutdown().await,
        }
    }
}
