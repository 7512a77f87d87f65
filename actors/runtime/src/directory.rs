//! Finds the one live actor of an id, starting it when there is none.

use std::{
    any::Any,
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aa_protocol::Timestamp;
use futures::FutureExt;
use parking_lot::{Mutex, RwLock};
use ractor::{Actor, ActorProcessingErr, ActorRef, ActorRuntime, MessagingErr};

use crate::{
    entity::{Entity, Flow},
    fault::Fault,
    node::Node,
    shard::{ChildExit, LiveShard, ShardId},
};

/// The actors of one kind on this node. Cheap to clone through its `Arc`.
pub struct Directory<E: Entity> {
    node: Node,
    context: E::Context,
    options: DirectoryOptions,
    rooms: Vec<Room<E>>,
    sweep: AtomicU64,
    stats: Counters,
    myself: Weak<Self>,
}

/// When actors are let go and how restarts are held back.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryOptions {
    /// An actor without a message for this long is dropped; `None` keeps it until its shard goes.
    pub idle_after: Option<Duration>,
    /// Failures in a row that are answered by an immediate restart; past it, starts are held back.
    pub free_restarts: u32,
    /// The first hold after that; it doubles with every further failure.
    pub first_backoff: Duration,
    /// The longest hold. A failure is forgotten once an actor lives for this long.
    pub longest_backoff: Duration,
}

/// Counts since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectoryStats {
    /// Actors alive now.
    pub active: u64,
    /// Actors started.
    pub started: u64,
    /// Actors dropped because they were idle.
    pub passivated: u64,
    /// Actors that panicked or failed to load.
    pub failed: u64,
}

#[derive(Default)]
struct Counters {
    started: AtomicU64,
    passivated: AtomicU64,
    failed: AtomicU64,
}

/// The actors of one shard. One lock per shard and kind, held for a look-up only.
struct Room<E: Entity> {
    slots: RwLock<HashMap<E::Id, Arc<Slot<E>>>>,
    failures: Mutex<HashMap<E::Id, Failures>>,
}

struct Failures {
    in_a_row: u32,
    last: Timestamp,
}

/// A live actor and how many messages are on their way to it.
struct Slot<E: Entity> {
    actor: ActorRef<Envelope<E>>,
    epoch: u64,
    pending: AtomicU64,
    last_sweep: AtomicU64,
}

/// Set in [`Slot::pending`] once the actor has decided to go; no message is sent to it after that.
const RETIRED: u64 = 1 << 63;

enum Envelope<E: Entity> {
    Deliver(E::Message),
    /// Go, unless something is on its way.
    Passivate,
}

/// The actor around an entity.
struct Host<E: Entity> {
    directory: Arc<Directory<E>>,
    shard: Arc<LiveShard>,
}

struct HostState<E: Entity> {
    id: E::Id,
    slot: Option<Arc<Slot<E>>>,
    entity: Option<E>,
}

struct Exit<E: Entity> {
    directory: Weak<Directory<E>>,
    shard: ShardId,
    id: E::Id,
    actor: ractor::ActorId,
}

// === impl DirectoryOptions ===

impl Default for DirectoryOptions {
    fn default() -> Self {
        Self {
            idle_after: Some(Duration::from_secs(300)),
            free_restarts: 3,
            first_backoff: Duration::from_millis(100),
            longest_backoff: Duration::from_secs(30),
        }
    }
}

// === impl Directory ===

impl<E: Entity> Directory<E> {
    /// An empty directory; starts the sweep that lets idle actors go.
    pub fn new(node: Node, context: E::Context, options: DirectoryOptions) -> Arc<Self> {
        let rooms = (0..node.shard_count()).map(|_| Room::default()).collect();
        let directory = Arc::new_cyclic(|myself| Self {
            node,
            context,
            options,
            rooms,
            sweep: AtomicU64::new(0),
            stats: Counters::default(),
            myself: myself.clone(),
        });
        if let Some(idle_after) = options.idle_after {
            tokio::spawn(sweep(Arc::downgrade(&directory), idle_after));
        }
        directory
    }

    /// Sends `message` to the actor `id`, starting it when needed.
    ///
    /// # Errors
    /// The message comes back with the reason when no actor can take it now.
    pub fn send(&self, id: &E::Id, message: E::Message) -> Result<(), (Fault, E::Message)> {
        let mut message = message;
        // A slot found dead or leaving is replaced; a second one going in the same instant is a
        // shard in trouble, which is the caller's to retry.
        for _ in 0..3 {
            let slot = match self.slot(id) {
                Ok(slot) => slot,
                Err(fault) => return Err((fault, message)),
            };
            match slot.deliver(message, self.sweep.load(Ordering::Relaxed)) {
                Ok(()) => return Ok(()),
                Err(returned) => message = returned,
            }
            self.forget(id, slot.actor.get_id());
        }
        Err((Fault::Gone, message))
    }

    /// What this directory has done so far.
    pub fn stats(&self) -> DirectoryStats {
        DirectoryStats {
            active: self.rooms.iter().map(|room| room.slots.read().len() as u64).sum(),
            started: self.stats.started.load(Ordering::Relaxed),
            passivated: self.stats.passivated.load(Ordering::Relaxed),
            failed: self.stats.failed.load(Ordering::Relaxed),
        }
    }

    fn shard_of(&self, id: &E::Id) -> ShardId {
        ShardId::of(E::KIND, &E::shard_key(id), self.node.shard_count())
    }

    fn slot(&self, id: &E::Id) -> Result<Arc<Slot<E>>, Fault> {
        let shard_id = self.shard_of(id);
        let room = &self.rooms[usize::from(shard_id.0)];
        let shard = self.node.live(shard_id).ok_or(Fault::ShardAway { shard: shard_id.0 })?;
        if let Some(slot) = room.slots.read().get(id)
            && slot.epoch == shard.epoch
        {
            return Ok(Arc::clone(slot));
        }
        self.start(room, id, shard)
    }

    fn start(
        &self,
        room: &Room<E>,
        id: &E::Id,
        shard: Arc<LiveShard>,
    ) -> Result<Arc<Slot<E>>, Fault> {
        self.check_backoff(room, id)?;
        let mut slots = room.slots.write();
        if let Some(slot) = slots.get(id)
            && slot.epoch == shard.epoch
        {
            return Ok(Arc::clone(slot));
        }
        let directory = self.myself.upgrade().ok_or(Fault::Gone)?;
        let host = Host { directory, shard: Arc::clone(&shard) };
        let mut exits = shard.children.exits.lock();
        let spawned =
            ActorRuntime::spawn_linked_instant(None, host, id.clone(), shard.supervisor.get_cell());
        // Only a name can make a spawn fail, and these actors have none.
        let (actor, _started) = spawned.map_err(|_| Fault::Gone)?;
        let exit = Exit::<E> {
            directory: self.myself.clone(),
            shard: shard.id,
            id: id.clone(),
            actor: actor.get_id(),
        };
        exits.insert(actor.get_id(), Arc::new(exit));
        drop(exits);
        let slot = Arc::new(Slot {
            actor,
            epoch: shard.epoch,
            pending: AtomicU64::new(0),
            last_sweep: AtomicU64::new(self.sweep.load(Ordering::Relaxed)),
        });
        slots.insert(id.clone(), Arc::clone(&slot));
        self.stats.started.fetch_add(1, Ordering::Relaxed);
        Ok(slot)
    }

    fn check_backoff(&self, room: &Room<E>, id: &E::Id) -> Result<(), Fault> {
        let mut failures = room.failures.lock();
        let Some(known) = failures.get(id) else { return Ok(()) };
        let since = self.node.clock().now().since(known.last);
        if since >= self.options.longest_backoff {
            failures.remove(id);
            return Ok(());
        }
        let hold = self.options.hold(known.in_a_row);
        if since >= hold {
            return Ok(());
        }
        Err(Fault::BackingOff { failures: known.in_a_row, retry_after: hold - since })
    }

    fn forget(&self, id: &E::Id, actor: ractor::ActorId) {
        let room = &self.rooms[usize::from(self.shard_of(id).0)];
        let mut slots = room.slots.write();
        if slots.get(id).is_some_and(|slot| slot.actor.get_id() == actor) {
            slots.remove(id);
        }
    }

    fn record_failure(&self, id: &E::Id, shard: ShardId, failure: &str) {
        self.stats.failed.fetch_add(1, Ordering::Relaxed);
        let now = self.node.clock().now();
        let mut failures = self.rooms[usize::from(shard.0)].failures.lock();
        let known = failures.entry(id.clone()).or_insert(Failures { in_a_row: 0, last: now });
        known.in_a_row = known.in_a_row.saturating_add(1);
        known.last = now;
        tracing::error!(
            kind = E::KIND,
            %id,
            shard = shard.0,
            in_a_row = known.in_a_row,
            failure,
            "an actor failed; it is loaded from the store when next needed"
        );
    }
}

impl DirectoryOptions {
    /// How long to wait after `in_a_row` failures.
    fn hold(&self, in_a_row: u32) -> Duration {
        let past = in_a_row.saturating_sub(self.free_restarts);
        if past == 0 {
            return Duration::ZERO;
        }
        let doublings = (past - 1).min(16);
        self.first_backoff.saturating_mul(1 << doublings).min(self.longest_backoff)
    }
}

/// Every quarter of the idle time, asks those that had no message since the sweep four before.
async fn sweep<E: Entity>(directory: Weak<Directory<E>>, idle_after: Duration) {
    loop {
        let Some(clock) = directory.upgrade().map(|directory| directory.node.clock()) else {
            return;
        };
        clock.sleep(idle_after / 4).await;
        let Some(directory) = directory.upgrade() else { return };
        let now = directory.sweep.fetch_add(1, Ordering::Relaxed) + 1;
        for room in &directory.rooms {
            let idle: Vec<_> = {
                let slots = room.slots.read();
                let is_idle =
                    |slot: &&Arc<Slot<E>>| slot.last_sweep.load(Ordering::Relaxed) + 4 <= now;
                slots.values().filter(is_idle).cloned().collect()
            };
            for slot in idle {
                // An actor that is already gone needs no telling.
                let _ = slot.actor.send_message(Envelope::Passivate);
            }
        }
    }
}

impl<E: Entity> Default for Room<E> {
    fn default() -> Self {
        Self { slots: RwLock::default(), failures: Mutex::default() }
    }
}

// === impl Slot ===

impl<E: Entity> Slot<E> {
    fn deliver(&self, message: E::Message, sweep: u64) -> Result<(), E::Message> {
        if self.pending.fetch_add(1, Ordering::AcqRel) & RETIRED != 0 {
            self.pending.fetch_sub(1, Ordering::AcqRel);
            return Err(message);
        }
        self.last_sweep.store(sweep, Ordering::Relaxed);
        match self.actor.send_message(Envelope::Deliver(message)) {
            Err(MessagingErr::SendErr(Envelope::Deliver(message))) => Err(message),
            // Typed addresses cannot mismatch; everything else was delivered.
            _ => Ok(()),
        }
    }

    /// Whether the actor may go: nothing is on its way, and from now on nothing will be.
    fn retire(&self) -> bool {
        self.pending.compare_exchange(0, RETIRED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

// === impl Exit ===

impl<E: Entity> ChildExit for Exit<E> {
    fn exited(&self, failure: Option<String>) {
        let Some(directory) = self.directory.upgrade() else { return };
        // The failure first: who finds the slot gone must also find the hold.
        if let Some(failure) = failure {
            directory.record_failure(&self.id, self.shard, &failure);
        }
        directory.forget(&self.id, self.actor);
    }
}

// === impl Host ===

impl<E: Entity> Actor for Host<E> {
    type Msg = Envelope<E>;
    type State = HostState<E>;
    type Arguments = E::Id;

    async fn pre_start(
        &self,
        _myself: ActorRef<Envelope<E>>,
        id: E::Id,
    ) -> Result<HostState<E>, ActorProcessingErr> {
        Ok(HostState { id, slot: None, entity: None })
    }

    /// Loading happens here and not in `pre_start`, whose failures no supervisor hears of.
    async fn post_start(
        &self,
        _myself: ActorRef<Envelope<E>>,
        state: &mut HostState<E>,
    ) -> Result<(), ActorProcessingErr> {
        self.load(state).await
    }

    async fn handle(
        &self,
        myself: ActorRef<Envelope<E>>,
        envelope: Envelope<E>,
        state: &mut HostState<E>,
    ) -> Result<(), ActorProcessingErr> {
        let slot = self.slot(&myself, state);
        let message = match envelope {
            Envelope::Deliver(message) => message,
            Envelope::Passivate => {
                if slot.is_none_or(|slot| slot.retire()) {
                    // First, so that whoever reads the count finds the actor gone.
                    self.directory.forget(&state.id, myself.get_id());
                    self.directory.stats.passivated.fetch_add(1, Ordering::Relaxed);
                    myself.stop(None);
                }
                return Ok(());
            }
        };
        if let Some(slot) = slot {
            slot.pending.fetch_sub(1, Ordering::AcqRel);
        }
        if state.entity.is_none() {
            self.load(state).await?;
        }
        if let Some(entity) = &mut state.entity {
            // Caught here and not by the actor loop, whose unwinding would also drop the messages that
            // wait: only the reply of the message at fault may see a panic. The entity is not used
            // again, so what the panic left of it does not matter.
            let handled = AssertUnwindSafe(entity.handle(message)).catch_unwind().await;
            match handled {
                Ok(Flow::Continue) => {}
                Ok(Flow::Reload) => state.entity = None,
                Err(panic) => {
                    state.entity = None;
                    return Err(format!("it panicked: {}", panic_text(&*panic)).into());
                }
            }
        }
        Ok(())
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

impl<E: Entity> Host<E> {
    async fn load(&self, state: &mut HostState<E>) -> Result<(), ActorProcessingErr> {
        // Whatever an earlier life of this actor handed to the journal must be in the store first.
        self.shard.journal.barrier().await?;
        let context = self.directory.context.clone();
        let loaded = E::load(state.id.clone(), Arc::clone(&self.shard), context).await?;
        state.entity = Some(loaded);
        Ok(())
    }

    fn slot(
        &self,
        myself: &ActorRef<Envelope<E>>,
        state: &mut HostState<E>,
    ) -> Option<Arc<Slot<E>>> {
        if state.slot.is_none() {
            let room = &self.directory.rooms[usize::from(self.shard.id.0)];
            let found = room.slots.read().get(&state.id).cloned();
            state.slot = found.filter(|slot| slot.actor.get_id() == myself.get_id());
        }
        state.slot.clone()
    }
}
