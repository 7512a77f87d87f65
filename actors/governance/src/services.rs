//! What all actors share.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use aa_ledger::{Checkpoint, LogKey, MacKey, VerifierKeyError};
use aa_notify::Sender;
use aa_protocol::WorkspaceId;
use aa_runtime::{Clock, Directory, Entity, Entropy, Fault, Node, Remote, Reply};
use aa_store::StoreError;
use aa_vault::{MasterKey, SecretName, SecretValue};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::{
    agent::{AgentActor, AgentKeyId, AgentMessage, Metered},
    approval::{ApprovalActor, ApprovalKey, ApprovalMessage},
    audit::Turns,
    backup::Backups,
    budget_window::{BudgetWindowActor, WindowMessage},
    bulletin::Placing,
    governance::Outside,
    keys,
    metrics::Metrics,
    notice::NoticeBoard,
    notifier::{NotifierActor, NotifierMessage},
    policy_board::{PolicyBoard, PolicyCell},
    policy_set::{ReadError, Rules},
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

/// Attempts to load changed policies before nothing is decided any more by those of before.
const RELOADS: usize = 20;

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
    pub(crate) placing: Placing,
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
    /// The backups being taken.
    pub(crate) backups: Backups,
    mac: ArcSwap<MacKey>,
}

impl Services {
    pub(crate) fn new(node: Node, audit: AuditKeys, outside: Outside) -> Self {
        let Outside { master_key, sender } = outside;
        Self {
            clock: node.clock(),
            entropy: node.entropy(),
            node,
            notices: NoticeBoard::default(),
            metrics: Metrics::default(),
            log_seed: audit.log_seed,
            board: PolicyBoard::default(),
            placing: Placing::default(),
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
            backups: Backups::default(),
            mac: ArcSwap::from_pointee(audit.mac),
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

    /// Whether the workspace is there. While one is being restored, or after that was cut off, some of its rows are, and
    /// nothing may start an actor over them.
    pub(crate) async fn is_there(&self, workspace: WorkspaceId) -> Result<bool, StoreError> {
        let mut txn = self.node.store().begin().await?;
        Ok(txn.get_snapshot(&keys::workspace(workspace)).await?.is_some())
    }

    /// Sends a message to a window.
    pub(crate) fn send_window(&self, id: &WindowId, message: WindowMessage) {
        send(&self.windows, id, message);
    }

    /// Sends a message to a request for approval.
    pub(crate) fn send_approval(&self, key: &ApprovalKey, message: ApprovalMessage) {
        send(&self.approvals, key, message);
    }

    /// Sends a message to a vault.
    pub(crate) fn send_vault(&self, workspace: &WorkspaceId, message: VaultMessage) {
        send(&self.vaults, workspace, message);
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

    /// Sends a message to a notifier.
    pub(crate) fn send_notifier(&self, workspace: &WorkspaceId, message: NotifierMessage) {
        send(&self.notifiers, workspace, message);
    }

    /// Lets a request for approval look at the clock, if it lives on this node.
    pub(crate) fn wake_approval_here(&self, key: &ApprovalKey) {
        if self.approvals.get().is_some_and(|approvals| approvals.is_here(key)) {
            self.send_approval(key, ApprovalMessage::Wake(Reply::ignored()));
        }
    }

    /// Whether a workspace's vault lives on this node.
    pub(crate) fn is_vault_here(&self, workspace: WorkspaceId) -> bool {
        self.vaults.get().is_some_and(|vaults| vaults.is_here(&workspace))
    }

    /// Whether a workspace's notifier lives on this node.
    pub(crate) fn is_notifier_here(&self, workspace: WorkspaceId) -> bool {
        self.notifiers.get().is_some_and(|notifiers| notifiers.is_here(&workspace))
    }

    /// Lets a request for approval look at the clock. False when nobody did, and somebody may the next time.
    pub(crate) async fn wake_approval(&self, key: &ApprovalKey) -> bool {
        let (reply, answer) = Reply::channel();
        self.send_approval(key, ApprovalMessage::Wake(reply));
        // One that cannot bear being woken is not woken again.
        matches!(answer.await, Ok(Ok(()) | Err(Fault::Crashed)))
    }

    /// Tells an agent what one of its actions waits for. One that has left memory meanwhile is started for it, which
    /// does no harm; one that cannot be started has lost nothing that its client's repeat does not find.
    pub(crate) fn tell_agent(&self, id: AgentKeyId, metered: Metered) {
        if let Some(agents) = self.agents.get().and_then(Weak::upgrade) {
            agents.send(&id, AgentMessage::Metered(metered));
        }
    }

    /// Reads the workspace's rules anew, trying until the store answers.
    pub(crate) async fn reload_policies(&self, workspace: WorkspaceId) {
        while let Err(error) = self.read_policies(workspace).await {
            tracing::warn!(%workspace, %error, "the policies are not loaded yet");
            self.clock.sleep(RELOAD_EVERY).await;
        }
    }

    /// Another node has changed the workspace's rules. Completes once nothing is decided here by those of before.
    pub(crate) async fn refresh_policies(
        self: &Arc<Self>,
        workspace: WorkspaceId,
        generation: u64,
    ) {
        if !self.board.expect(workspace, generation) {
            return;
        }
        for _ in 0..RELOADS {
            match self.catch_up(workspace).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%workspace, %error, "changed policies are not loaded yet");
                }
            }
            self.clock.sleep(RELOAD_EVERY).await;
        }
        // Others wait for this node; its agents of this workspace wait for the rules.
        self.board.close(workspace);
        let services = Arc::clone(self);
        tokio::spawn(async move {
            while let Err(error) = services.catch_up(workspace).await {
                tracing::error!(
                    %workspace, %error,
                    "changed policies cannot be loaded; nothing is decided until they can"
                );
                services.clock.sleep(10 * RELOAD_EVERY).await;
            }
        });
    }

    /// Reads all rules anew that are held here.
    pub(crate) async fn refresh_all_policies(&self) {
        for workspace in self.board.all() {
            self.reload_policies(workspace).await;
        }
    }

    /// The cell with the workspace's rules, reading them when they are not held.
    pub(crate) async fn policies(&self, workspace: WorkspaceId) -> Result<Arc<PolicyCell>, Fault> {
        if let Some(cell) = self.board.find(workspace) {
            return Ok(cell);
        }
        let caught_up = self.catch_up(workspace).await;
        caught_up.map_err(|error| {
            tracing::error!(%workspace, %error, "the policies cannot be read");
            Fault::NotDurable("the workspace's policies cannot be read now".to_owned())
        })
    }

    /// Reads the rules until they are as new as other nodes have told of.
    async fn catch_up(&self, workspace: WorkspaceId) -> Result<Arc<PolicyCell>, ReadError> {
        let turn = self.board.turn(workspace);
        let _turn = turn.lock().await;
        if let Some(cell) = self.board.find(workspace)
            && !self.board.is_behind(workspace)
        {
            return Ok(cell);
        }
        loop {
            let cell = self.read_policies(workspace).await?;
            if !self.board.is_behind(workspace) {
                return Ok(cell);
            }
        }
    }

    async fn read_policies(&self, workspace: WorkspaceId) -> Result<Arc<PolicyCell>, ReadError> {
        let rules = Rules::read(self, workspace).await?;
        Ok(self.board.publish(workspace, rules.snapshot()))
    }
}

/// Sends a message to an actor. Its replies are answered, whatever happens.
fn send<E: Entity>(directory: &OnceLock<Arc<Directory<E>>>, id: &E::Id, message: E::Message) {
    match directory.get() {
        Some(directory) => directory.send(id, message),
        None => message.fail(Fault::Gone),
    }
}
