//! Finds the one live actor of an id, starting it when there is none.

mod failures;

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use parking_lot::{Mutex, RwLock};
use ractor::{Actor, ActorProcessingErr, ActorRef, ActorRuntime, MessagingErr};

use self::failures::{Failures, Panicked, Standing};
use crate::{
    entity::{Entity, Flow},
    fault::Fault,
    node::Node,
    relay::Taker,
    shard::{ChildExit, LiveShard, ShardId},
    wire::{Incoming, Remote, decode},
};

/// The actors of one kind: those of this node's shards are started here, and messages for the others are sent to
/// where they live. Cheap to clone through its `Arc`.
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
    /// The longest hold. Failures are forgotten this long after the last hold ended without another.
    pub longest_backoff: Duration,
    /// Panics in a row after which an actor is held down: it stays down for [`Self::held_for`] and is held
    /// down again if it panics then. Failures to load are held back only, never held down.
    pub panics_until_held: u32,
    /// How long an actor that is held down stays down, at least `longest_backoff`.
    pub held_for: Duration,
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
    /// Actors that are held down now, because they panicked too often in a row.
    pub held: u64,
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

/// A live actor and how many messages are on their way to it.
struct Slot<E: Entity> {
    actor: ActorRef<Envelope<E>>,
    epoch: u64,
    /// Messages on their way to it, or being handled.
    pending: AtomicU64,
    /// Whether somebody waits for what it holds.
    waiting: AtomicBool,
    last_sweep: AtomicU64,
}

/// How often in the time after which an actor is idle the directory looks for those that are. It is small
/// next to what a look costs: an actor that rests holds memory until the next one.
const SWEEPS: u64 = 60;

/// [`Slot::last_sweep`] of an actor that rests: long ago, whatever the number of the sweep.
const RESTING: u64 = 0;

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
            panics_until_held: 10,
            held_for: Duration::from_secs(300),
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
            sweep: AtomicU64::new(SWEEPS),
            stats: Counters::default(),
            myself: myself.clone(),
        });
        let taker: Weak<dyn Taker> = directory.myself.clone();
        directory.node.relay().register(E::KIND, taker);
        if let Some(idle_after) = options.idle_after {
            tokio::spawn(sweep(Arc::downgrade(&directory), idle_after));
        }
        directory
    }

    /// Sends `message` to the actor `id`, starting it when needed, on whichever node its shard lives. Its replies
    /// are answered, whatever happens.
    pub fn send(&self, id: &E::Id, message: E::Message) {
        let shard = self.shard_of(id);
        if message.stays_here() {
            return self.send_to_present(shard, id, message);
        }
        if self.node.live(shard).is_none() && self.node.is_clustered() {
            return self.send_away(shard, id, message);
        }
        if let Err((fault, message)) = self.send_here(id, message) {
            message.fail(fault);
        }
    }

    /// Whether the actor `id` lives on this node at the moment.
    pub fn is_here(&self, id: &E::Id) -> bool {
        self.node.live(self.shard_of(id)).is_some()
    }

    /// To the actor that is there, even while its shard is being handed over or the node's lease has lapsed: it may
    /// have to answer somebody.
    fn send_to_present(&self, shard: ShardId, id: &E::Id, message: E::Message) {
        let slot = self.rooms[usize::from(shard.0)].slots.read().get(id).cloned();
        let left = match slot {
            Some(slot) => slot.deliver(message, self.sweep.load(Ordering::Relaxed)).err(),
            None => Some(message),
        };
        if let Some(message) = left {
            message.fail(Fault::Gone);
        }
    }

    /// To another node, or to this one once it has the shard.
    fn send_away(&self, shard: ShardId, id: &E::Id, message: E::Message) {
        let Some(outgoing) = message.pack() else { return };
        // Ids are strings and numbers, which always serialize.
        let id = rmp_serde::to_vec_named(id).unwrap_or_default();
        self.node.relay().send(shard, E::KIND, id.into(), outgoing);
    }

    /// To the actor on this node.
    fn send_here(&self, id: &E::Id, message: E::Message) -> Result<(), (Fault, E::Message)> {
        let mut message = message;
        // A slot found leaving is replaced; a second one going in the same instant is the caller's to retry.
        for _ in 0..3 {
            let slot = match self.slot(id) {
                Ok(slot) => slot,
                Err(fault) => return Err((fault, message)),
            };
            match slot.deliver(message, self.sweep.load(Ordering::Relaxed)) {
                Ok(()) => return Ok(()),
                // It died. Its supervisor takes it away, once the failure counts: whoever replaced it here would
                // start one after the other ahead of every hold.
                Err(returned) if !slot.is_retired() => return Err((Fault::Gone, returned)),
                Err(returned) => message = returned,
            }
            self.forget(id, slot.actor.get_id());
        }
        Err((Fault::Gone, message))
    }

    /// What this directory has done so far.
    pub fn stats(&self) -> DirectoryStats {
        let now = self.node.clock().now();
        let is_held =
            |known: &&Failures| matches!(known.standing(&self.options, now), Standing::Held(_));
        let held = |room: &Room<E>| room.failures.lock().values().filter(is_held).count() as u64;
        DirectoryStats {
            held: self.rooms.iter().map(held).sum(),
            active: self.rooms.iter().map(|room| room.slots.read().len() as u64).sum(),
            started: self.stats.started.load(Ordering::Relaxed),
            passivated: self.stats.passivated.load(Ordering::Relaxed),
            failed: self.stats.failed.load(Ordering::Acquire),
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
            waiting: AtomicBool::new(false),
            last_sweep: AtomicU64::new(self.sweep.load(Ordering::Relaxed)),
        });
        slots.insert(id.clone(), Arc::clone(&slot));
        self.stats.started.fetch_add(1, Ordering::Relaxed);
        Ok(slot)
    }

    fn check_backoff(&self, room: &Room<E>, id: &E::Id) -> Result<(), Fault> {
        let mut failures = room.failures.lock();
        let Some(known) = failures.get(id) else { return Ok(()) };
        match known.standing(&self.options, self.node.clock().now()) {
            Standing::Free => Ok(()),
            Standing::Forgotten => {
                failures.remove(id);
                Ok(())
            }
            Standing::BackingOff(retry_after) | Standing::Held(retry_after) => {
                Err(Fault::BackingOff { failures: known.in_a_row, retry_after })
            }
        }
    }

    fn forget(&self, id: &E::Id, actor: ractor::ActorId) {
        let room = &self.rooms[usize::from(self.shard_of(id).0)];
        let mut slots = room.slots.write();
        if slots.get(id).is_some_and(|slot| slot.actor.get_id() == actor) {
            slots.remove(id);
        }
    }

    fn record_failure(&self, id: &E::Id, shard: ShardId, failure: &ActorProcessingErr) {
        let now = self.node.clock().now();
        let known = {
            let mut failures = self.rooms[usize::from(shard.0)].failures.lock();
            let known = failures.entry(id.clone()).or_insert(Failures::none(now));
            // It lived well since, and nobody had to look.
            if known.standing(&self.options, now) == Standing::Forgotten {
                *known = Failures::none(now);
            }
            known.add(failure.is::<Panicked>(), now);
            *known
        };
        // Afterwards: who reads the count also finds the hold.
        self.stats.failed.fetch_add(1, Ordering::Release);
        let (kind, shard, in_a_row) = (E::KIND, shard.0, known.in_a_row);
        if known.is_past_limit(&self.options) {
            let held_for = self.options.held_for;
            tracing::error!(
                kind, %id, shard, in_a_row, %failure, ?held_for,
                "an actor panicked too often in a row and is held down; it is tried again after that"
            );
        } else {
            tracing::error!(
                kind, %id, shard, in_a_row, %failure,
                "an actor failed; it is loaded from the store when next needed"
            );
        }
    }

    /// Asks the idle actors of a room to go.
    fn sweep(&self, room: &Room<E>, number: u64) {
        let idle: Vec<_> = {
            let slots = room.slots.read();
            let is_idle = |slot: &(_, &Arc<Slot<E>>)| {
                slot.1.last_sweep.load(Ordering::Relaxed) + SWEEPS <= number
            };
            let idle = slots.iter().filter(is_idle);
            idle.map(|(id, slot)| (id.clone(), Arc::clone(slot))).collect()
        };
        for (id, slot) in idle {
            // One that died with its supervisor was heard of by nobody.
            if slot.actor.send_message(Envelope::Passivate).is_err() {
                self.forget(&id, slot.actor.get_id());
            }
        }
        let now = self.node.clock().now();
        let counts = |known: &Failures| known.standing(&self.options, now) != Standing::Forgotten;
        room.failures.lock().retain(|_, known| counts(known));
    }
}

/// Numbers the sweeps by the clock and not by counting, so that one that comes late counts for those it missed.
async fn sweep<E: Entity>(directory: Weak<Directory<E>>, idle_after: Duration) {
    let pause = (idle_after / SWEEPS as u32).max(Duration::from_millis(1));
    let Some(begun) = directory.upgrade().map(|directory| directory.node.clock().now()) else {
        return;
    };
    loop {
        let Some(clock) = directory.upgrade().map(|directory| directory.node.clock()) else {
            return;
        };
        clock.sleep(pause).await;
        let Some(directory) = directory.upgrade() else { return };
        let pauses = clock.now().since(begun).as_micros() / pause.as_micros();
        let number = SWEEPS + u64::try_from(pauses).unwrap_or(u64::MAX / 2);
        directory.sweep.store(number, Ordering::Relaxed);
        for room in &directory.rooms {
            directory.sweep(room, number);
            // A room of many actors takes its time; whoever waits for a thread goes first.
            tokio::task::yield_now().await;
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

    /// Lets the next sweep find the actor idle, unless a message is on its way.
    fn rest(&self) {
        if self.pending.load(Ordering::Acquire) == 0 {
            self.last_sweep.store(RESTING, Ordering::Relaxed);
        }
    }

    fn is_retired(&self) -> bool {
        self.pending.load(Ordering::Acquire) & RETIRED != 0
    }

    /// Whether the actor may go: nothing is on its way, and from now on nothing will be.
    fn retire(&self) -> bool {
        self.pending.compare_exchange(0, RETIRED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

// === impl Exit ===

impl<E: Entity> ChildExit for Exit<E> {
    fn exited(&self, failure: Option<ActorProcessingErr>) {
        let Some(directory) = self.directory.upgrade() else { return };
        // The failure first: who finds the slot gone must also find the hold.
        if let Some(failure) = failure {
            directory.record_failure(&self.id, self.shard, &failure);
        }
        directory.forget(&self.id, self.actor);
    }

    fn is_busy(&self) -> bool {
        let Some(directory) = self.directory.upgrade() else { return false };
        let slots = directory.rooms[usize::from(self.shard.0)].slots.read();
        let slot = slots.get(&self.id).filter(|slot| slot.actor.get_id() == self.actor);
        slot.is_some_and(|slot| {
            slot.pending.load(Ordering::Acquire) & !RETIRED != 0
                || slot.waiting.load(Ordering::Relaxed)
        })
    }
}

// === impl Taker ===

impl<E: Entity> Taker for Directory<E> {
    fn serves(&self, shard: ShardId) -> bool {
        self.node.live(shard).is_some()
    }

    fn take(&self, id: &[u8], mut incoming: Incoming) {
        let id = decode(id);
        let unpacked = id.and_then(|id| match E::Message::unpack(&mut incoming) {
            Ok(message) => Ok((id, message)),
            Err(error) => Err(error.to_string()),
        });
        match unpacked {
            Ok((id, message)) => {
                if let Err((fault, message)) = self.send_here(&id, message) {
                    message.fail(fault);
                }
            }
            Err(problem) => {
                let (node, verb) = (self.node.name(), incoming.verb());
                tracing::warn!(
                    kind = E::KIND,
                    verb,
                    problem,
                    "a message of another version was refused"
                );
                let fault = Fault::NotUnderstood { node: node.to_owned(), verb: verb.to_owned() };
                incoming.fail(&fault);
            }
        }
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
            Envelope::Passivate if state.entity.as_ref().is_some_and(E::is_waiting) => {
                return Ok(());
            }
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
        if state.entity.is_none() {
            self.load(state).await?;
        }
        if let Some(entity) = &mut state.entity {
            // Caught here and not by the actor loop, whose unwinding would also drop the messages that
            // wait: only the reply of the message at fault may see a panic. The entity is not used
            // again, so what the panic left of it does not matter.
            let handled = AssertUnwindSafe(entity.handle(message)).catch_unwind().await;
            if let Some(slot) = &slot {
                slot.waiting.store(entity.is_waiting(), Ordering::Relaxed);
                slot.pending.fetch_sub(1, Ordering::AcqRel);
            }
            match handled {
                Ok(Flow::Continue) => {}
                Ok(Flow::Reload) => state.entity = None,
                Ok(Flow::Rest) => slot.iter().for_each(|slot| slot.rest()),
                Err(panic) => {
                    state.entity = None;
                    return Err(Panicked::new(&*panic).into());
                }
            }
        }
        Ok(())
    }
}

impl<E: Entity> Host<E> {
    async fn load(&self, state: &mut HostState<E>) -> Result<(), ActorProcessingErr> {
        // Whatever an earlier life of this actor handed to the journal must be in the store first.
        self.shard.journal.barrier().await?;
        let context = self.directory.context.clone();
        // On the heap, for as long as it takes: inside the actor's own future, every actor would hold the
        // room for it as long as it lives.
        let loading = Box::pin(E::load(state.id.clone(), Arc::clone(&self.shard), context));
        // Caught for those who wait, as above.
        let loaded = AssertUnwindSafe(loading).catch_unwind().await;
        let loaded = loaded.map_err(|panic| Panicked::new(&*panic))?;
        state.entity = Some(loaded?);
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

#[cfg(test)]
mod tests;
