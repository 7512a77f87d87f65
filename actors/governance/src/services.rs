//! What all actors share.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use aa_ledger::{Checkpoint, LogKey, MacKey, VerifierKeyError};
use aa_notify::Sender;
use aa_protocol::WorkspaceId;
use aa_runtime::{Clock, Directory, Entity, Entropy, Fault, Node, Reply};
use aa_vault::{MasterKey, SecretName, SecretValue};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::{
    agent::{AgentActor, AgentKeyId, AgentMessage, Metered},
    approval::{ApprovalActor, ApprovalKey, ApprovalMessage},
    audit::Turns,
    budget_window::{BudgetWindowActor, WindowMessage},
    governance::Outside,
    metrics::Metrics,
    notice::NoticeBoard,
    notifier::{NotifierActor, NotifierMessage},
    policy_board::{PolicyBoard, PolicyCell},
    policy_set::{PolicySetActor, PolicySetMessage},
    spender::WindowId,
    vault::{SecretError, VaultActor, VaultMessage},
};

/// The keys that make the audit log trustworthy. They are shown nowhere.
pub struct AuditKeys {
    /// The Ed25519 seed that signs checkpoints. Each workspace signs under a name of its own.
    pub log_seed: Zeroizing<[u8; 32]>,
    /// Authenticates entries from now on.
    pub mac: MacKey,
}

/// The pause between attempts to load policies after a failure.
const RELOAD_EVERY: Duration = Duration::from_millis(100);

/// Everything an actor needs besides its own state.
pub struct Services {
    /// The node the actors run on.
    pub node: Node,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The source of ids and keys.
    pub entropy: Arc<dyn Entropy>,
    /// News for sessions.
    pub notices: NoticeBoard,
    /// Counts for operators.
    pub metrics: Metrics,
    log_seed: Zeroizing<[u8; 32]>,
    pub(crate) board: PolicyBoard,
    pub(crate) policy_sets: OnceLock<Arc<Directory<PolicySetActor>>>,
    pub(crate) agents: OnceLock<Weak<Directory<AgentActor>>>,
    pub(crate) windows: OnceLock<Arc<Directory<BudgetWindowActor>>>,
    pub(crate) approvals: OnceLock<Arc<Directory<ApprovalActor>>>,
    pub(crate) vaults: OnceLock<Arc<Directory<VaultActor>>>,
    pub(crate) notifiers: OnceLock<Arc<Directory<NotifierActor>>>,
    /// The workspaces with somebody to tell, or something to deliver.
    pub(crate) alerting: Mutex<BTreeSet<WorkspaceId>>,
    /// What people are told through.
    pub(crate) sender: Arc<Sender>,
    /// What the workspaces' data keys are wrapped under.
    pub(crate) master_key: Arc<dyn MasterKey>,
    /// Documents of all workspaces are compiled one at a time: a large one keeps a processor busy for a
    /// second, and the others are for decisions.
    pub(crate) compiler: Semaphore,
    /// Exports and queries read the logs one slice at a time, away from the threads that decide.
    pub(crate) log_readers: Turns,
    mac: ArcSwap<MacKey>,
}

impl Services {
    pub(crate) fn new(node: Node, keys: AuditKeys, outside: Outside) -> Self {
        let Outside { master_key, sender } = outside;
        Self {
            clock: node.clock(),
            entropy: node.entropy(),
            node,
            notices: NoticeBoard::default(),
            metrics: Metrics::default(),
            log_seed: keys.log_seed,
            board: PolicyBoard::default(),
            policy_sets: OnceLock::new(),
            agents: OnceLock::new(),
            windows: OnceLock::new(),
            approvals: OnceLock::new(),
            vaults: OnceLock::new(),
            notifiers: OnceLock::new(),
            alerting: Mutex::default(),
            sender,
            master_key,
            compiler: Semaphore::new(1),
            log_readers: Turns::default(),
            mac: ArcSwap::from_pointee(keys.mac),
        }
    }

    /// Authenticates entries under `key` from now on.
    pub fn replace_mac_key(&self, key: MacKey) {
        self.mac.store(Arc::new(key));
    }

    /// The key that authenticates entries now.
    pub(crate) fn mac_key(&self) -> arc_swap::Guard<Arc<MacKey>> {
        self.mac.load()
    }

    /// The key that signs the workspace's checkpoints.
    pub(crate) fn log_key(&self, workspace: WorkspaceId) -> Result<LogKey, VerifierKeyError> {
        LogKey::new(&Checkpoint::origin(workspace), &self.log_seed)
    }

    /// Sends a message to a window. What it cannot take answers its own reply with the reason.
    pub(crate) fn send_window(&self, id: &WindowId, message: WindowMessage) {
        send(&self.windows, id, message, WindowMessage::fail);
    }

    /// Sends a message to a request for approval. What it cannot take answers its own reply with the reason.
    pub(crate) fn send_approval(&self, key: &ApprovalKey, message: ApprovalMessage) {
        send(&self.approvals, key, message, ApprovalMessage::fail);
    }

    /// Sends a message to a vault. What it cannot take answers its own reply with the reason.
    pub(crate) fn send_vault(&self, workspace: &WorkspaceId, message: VaultMessage) {
        send(&self.vaults, workspace, message, VaultMessage::fail);
    }

    /// A secret in the clear, for one use of it.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(crate) async fn open_secret(
        &self,
        workspace: WorkspaceId,
        name: SecretName,
    ) -> Result<Result<SecretValue, SecretError>, Fault> {
        let (reply, answer) = Reply::channel();
        self.send_vault(&workspace, VaultMessage::Open(name, reply));
        answer.await.unwrap_or(Err(Fault::Gone))
    }

    /// Sends a message to a notifier. What it cannot take answers its own reply with the reason.
    pub(crate) fn send_notifier(&self, workspace: &WorkspaceId, message: NotifierMessage) {
        send(&self.notifiers, workspace, message, NotifierMessage::fail);
    }

    /// Lets a request for approval look at the clock; whether there was somebody to look, or nobody will ever be.
    pub(crate) fn wake_approval(&self, key: ApprovalKey) -> bool {
        let Some(approvals) = self.approvals.get() else { return true };
        approvals.send(&key, ApprovalMessage::Wake).is_ok()
    }

    /// Tells an agent what one of its actions waits for. One that has left memory meanwhile is started for it, which
    /// does no harm; one that cannot be started has lost nothing that its client's repeat does not find.
    pub(crate) fn tell_agent(&self, id: AgentKeyId, metered: Metered) {
        if let Some(agents) = self.agents.get().and_then(Weak::upgrade) {
            // An agent that is away has no action waiting.
            let _ = agents.send(&id, AgentMessage::Metered(metered));
        }
    }

    /// Loads the workspace's policies anew, trying until the shard is back.
    pub(crate) async fn reload_policies(&self, workspace: WorkspaceId) {
        while let Err(fault) = self.load_policies(workspace).await {
            tracing::warn!(%workspace, %fault, "the policies are not loaded yet");
            self.clock.sleep(RELOAD_EVERY).await;
        }
    }

    /// The cell with the workspace's policies, loading them when they are not.
    pub(crate) async fn policies(&self, workspace: WorkspaceId) -> Result<Arc<PolicyCell>, Fault> {
        if let Some(cell) = self.board.find(workspace) {
            return Ok(cell);
        }
        self.load_policies(workspace).await
    }

    async fn load_policies(&self, workspace: WorkspaceId) -> Result<Arc<PolicyCell>, Fault> {
        let directory = self.policy_sets.get().ok_or(Fault::Gone)?;
        let (reply, answer) = Reply::channel();
        directory
            .send(&workspace, PolicySetMessage::Open(reply))
            .map_err(|(fault, _message)| fault)?;
        answer.await.unwrap_or(Err(Fault::Gone))
    }
}

/// Sends a message to an actor, or has it answer its own reply with the reason why not.
fn send<E: Entity>(
    directory: &OnceLock<Arc<Directory<E>>>,
    id: &E::Id,
    message: E::Message,
    fail: impl FnOnce(E::Message, Fault),
) {
    let unsent = match directory.get() {
        Some(directory) => directory.send(id, message).err(),
        None => Some((Fault::Gone, message)),
    };
    if let Some((fault, message)) = unsent {
        fail(message, fault);
    }
}
