//! Where everything is stored. Every key of a tenant's data starts, after its kind, with the workspace,
//! and is built here only: what a function of this module is given decides whose data can be touched.

mod space;

use aa_budget::{Period, ReservationId};
use aa_ledger::Stream;
use aa_protocol::{ActionId, AgentId, ApprovalId, BudgetId, WorkspaceId};
use aa_store::{KeyRange, Subspace};
use bytes::Bytes;

pub use self::space::Space;
use crate::spender::{Spender, WindowId};

/// `workspace/<ws>`: the workspace's record.
pub fn workspace(workspace: WorkspaceId) -> Bytes {
    Space::Workspace.of(workspace).to_key()
}

/// The entries of a workspace, in the logs of all shards.
pub fn entries(workspace: WorkspaceId) -> KeyRange {
    KeyRange::prefix(&aa_runtime::journal::logs_prefix(workspace))
}

/// `home`: the id of the workspace whose owners run the deployment.
pub fn home() -> Bytes {
    Subspace::root().key("home")
}

/// All workspace records.
pub fn workspaces() -> KeyRange {
    Subspace::root().with(Space::Workspace.name()).range()
}

/// `agent/<ws>/<agent>`: an agent's registered facts and status.
pub fn agent(workspace: WorkspaceId, agent: AgentId) -> Bytes {
    Space::Agent.of(workspace).key(*agent.as_uuid())
}

/// All agents of a workspace.
pub fn agents(workspace: WorkspaceId) -> KeyRange {
    Space::Agent.of(workspace).range()
}

/// `head/<ws>/<stream>`: the head of a stream's chain.
pub fn head(workspace: WorkspaceId, stream: Stream) -> Bytes {
    let heads = Space::Head.of(workspace);
    match stream {
        Stream::Workspace => heads.key("workspace"),
        Stream::Policies => heads.key("policies"),
        Stream::Vault => heads.key("vault"),
        Stream::Alerts => heads.key("alerts"),
        Stream::Agent(agent) => heads.key(*agent.as_uuid()),
        // Agents may choose their own ids.
        Stream::Budget(budget) => heads.with("budget").key(*budget.as_uuid()),
        Stream::Approval(approval) => heads.with("approval").key(*approval.as_uuid()),
    }
}

/// The stream in a key of [`head`].
pub fn head_stream(workspace: WorkspaceId, key: &[u8]) -> Option<Stream> {
    let heads = Space::Head.of(workspace);
    if let Ok(agent) = heads.unpack(key).ok()?.uuid() {
        let stream = Stream::Agent(AgentId::from_uuid(agent));
        return (head(workspace, stream) == key).then_some(stream);
    }
    let mut parts = heads.unpack(key).ok()?;
    let stream = match (parts.str().ok()?.as_ref(), parts.uuid()) {
        ("workspace", _) => Stream::Workspace,
        ("policies", _) => Stream::Policies,
        ("vault", _) => Stream::Vault,
        ("alerts", _) => Stream::Alerts,
        ("budget", Ok(budget)) => Stream::Budget(BudgetId::from_uuid(budget)),
        ("approval", Ok(approval)) => Stream::Approval(ApprovalId::from_uuid(approval)),
        _ => return None,
    };
    (head(workspace, stream) == key).then_some(stream)
}

/// `rate/<ws>/<agent>/…`: the rate windows of an agent.
pub fn rates(workspace: WorkspaceId, agent: AgentId) -> Subspace {
    Space::Rate.of(workspace).with(*agent.as_uuid())
}

/// `recent/<ws>/<agent>/…`: the pages of an agent's recent actions.
pub fn recent(workspace: WorkspaceId, agent: AgentId) -> Subspace {
    Space::Recent.of(workspace).with(*agent.as_uuid())
}

/// `policy/<ws>/<name>`: which revision of a policy is in force.
pub fn policy(workspace: WorkspaceId, name: &str) -> Bytes {
    Space::Policy.of(workspace).key(name)
}

/// All policies of a workspace.
pub fn policies(workspace: WorkspaceId) -> KeyRange {
    Space::Policy.of(workspace).range()
}

/// `policy_revision/<ws>/<name>/<revision>`: what is known of one revision.
pub fn policy_revision(workspace: WorkspaceId, name: &str, revision: u64) -> Bytes {
    policy_revisions_of(workspace, name).key(revision)
}

/// All revisions of a policy.
pub fn policy_revisions(workspace: WorkspaceId, name: &str) -> KeyRange {
    policy_revisions_of(workspace, name).range()
}

/// `policy_source/<ws>/<name>/<revision>/<chunk>`: the uploaded bytes, in chunks.
pub fn policy_source(workspace: WorkspaceId, name: &str, revision: u64) -> Subspace {
    Space::PolicySource.of(workspace).with(name).with(revision)
}

/// `policy_generation/<ws>`: counts the changes of the policy set.
pub fn policy_generation(workspace: WorkspaceId) -> Bytes {
    Space::PolicyGeneration.of(workspace).to_key()
}

/// `budget/<ws>/<spender>/<period>`: what an operator set for a shared window.
pub fn budget(workspace: WorkspaceId, spender: &Spender, period: Period) -> Bytes {
    with_spender(Space::Budget.of(workspace), spender).key(period.as_str())
}

/// All budgets of a workspace.
pub fn budgets(workspace: WorkspaceId) -> KeyRange {
    Space::Budget.of(workspace).range()
}

/// `prices/<ws>`: what operators set of prices.
pub fn prices(workspace: WorkspaceId) -> Bytes {
    Space::Prices.of(workspace).to_key()
}

/// `window/<ws>/<spender>/<period>/<zone>`: what is spent in a window.
pub fn window(id: &WindowId) -> Bytes {
    of_window(Space::Window, id).to_key()
}

/// All windows of a spender.
pub fn windows_of(workspace: WorkspaceId, spender: &Spender) -> Subspace {
    with_spender(Space::Window.of(workspace), spender)
}

/// The window in a key of [`window`].
pub fn window_of(workspace: WorkspaceId, key: &[u8]) -> Option<WindowId> {
    let mut parts = Space::Window.of(workspace).unpack(key).ok()?;
    let spender = match parts.str().ok()?.as_ref() {
        "agent" => Spender::Agent(AgentId::from_uuid(parts.uuid().ok()?)),
        "team" => Spender::Team(parts.str().ok()?.as_ref().into()),
        "workspace" => Spender::Workspace,
        _ => return None,
    };
    window_id(workspace, &spender, key)
}

/// The window of a spender in a key of [`window`].
pub fn window_id(workspace: WorkspaceId, spender: &Spender, key: &[u8]) -> Option<WindowId> {
    let space = windows_of(workspace, spender);
    let mut parts = space.unpack(key).ok()?;
    let period = Period::from_name(&parts.str().ok()?)?;
    let zone = parts.str().ok()?.as_ref().into();
    parts.end().ok()?;
    Some(WindowId { workspace, spender: spender.clone(), period, zone })
}

/// `reservation/<ws>/<spender>/<period>/<zone>/<agent>/<action>`: what is set aside for a call.
pub fn reservations(id: &WindowId) -> Subspace {
    of_window(Space::Reservation, id)
}

/// The key of a call's reservation in those of a window.
pub fn reservation(window: &Subspace, id: ReservationId) -> Bytes {
    window.with(*id.agent.as_uuid()).key(id.action.to_bytes())
}

/// The call in a key of [`reservation`].
pub fn reservation_id(window: &Subspace, key: &[u8]) -> Option<ReservationId> {
    let mut parts = window.unpack(key).ok()?;
    let agent = AgentId::from_uuid(parts.uuid().ok()?);
    let action = parts.bytes().ok()?.as_ref().try_into().ok().map(ActionId::from_bytes)?;
    parts.end().ok()?;
    Some(ReservationId { agent, action })
}

/// `call/<ws>/<agent>/…`: the calls of an agent for which something is reserved.
pub fn calls(workspace: WorkspaceId, agent: AgentId) -> Subspace {
    Space::Call.of(workspace).with(*agent.as_uuid())
}

/// `approval/<ws>/<id>`: a request for approval.
pub fn approval(workspace: WorkspaceId, id: ApprovalId) -> Bytes {
    Space::Approval.of(workspace).key(*id.as_uuid())
}

/// All requests of a workspace.
pub fn approvals(workspace: WorkspaceId) -> KeyRange {
    Space::Approval.of(workspace).range()
}

/// `pending_approval/<ws>/<id>`: the requests nobody has decided.
pub fn pending_approval(workspace: WorkspaceId, id: ApprovalId) -> Bytes {
    Space::PendingApproval.of(workspace).key(*id.as_uuid())
}

/// All undecided requests, of every workspace: their actors' clocks are set when a node starts.
pub fn all_pending_approvals() -> KeyRange {
    Subspace::root().with(Space::PendingApproval.name()).range()
}

/// The undecided requests of a workspace.
pub fn pending_approvals(workspace: WorkspaceId) -> KeyRange {
    Space::PendingApproval.of(workspace).range()
}

/// The request in a key of [`pending_approval`].
pub fn pending_approval_id(key: &[u8]) -> Option<(WorkspaceId, ApprovalId)> {
    let mut parts = Subspace::root().with(Space::PendingApproval.name()).unpack(key).ok()?;
    let (workspace, id) = (parts.uuid().ok()?, parts.uuid().ok()?);
    parts.end().ok()?;
    Some((WorkspaceId::from_uuid(workspace), ApprovalId::from_uuid(id)))
}

/// The request in a key of [`approval`] or of [`pending_approval`].
pub fn approval_id(key: &[u8]) -> Option<ApprovalId> {
    if let Some((_, id)) = pending_approval_id(key) {
        return Some(id);
    }
    let mut parts = Subspace::root().with(Space::Approval.name()).unpack(key).ok()?;
    parts.uuid().ok()?;
    let id = ApprovalId::from_uuid(parts.uuid().ok()?);
    parts.end().ok()?;
    Some(id)
}

/// `asked/<ws>/<agent>/<digest>`: the pending request that an agent has for what has this digest.
pub fn asked(workspace: WorkspaceId, agent: AgentId, digest: &str) -> Bytes {
    asked_by(workspace, agent).key(digest)
}

/// The pending requests of an agent, by what they are about.
pub fn asked_by(workspace: WorkspaceId, agent: AgentId) -> Subspace {
    Space::Asked.of(workspace).with(*agent.as_uuid())
}

/// `session_grant/<ws>/<agent>/…`: what people have approved for whole sessions of an agent.
pub fn session_grants(workspace: WorkspaceId, agent: AgentId) -> Subspace {
    Space::SessionGrant.of(workspace).with(*agent.as_uuid())
}

/// `armed/<ws>/<agent>/…`: the sequences of policies that results have armed, by session.
pub fn armed(workspace: WorkspaceId, agent: AgentId) -> Subspace {
    Space::Armed.of(workspace).with(*agent.as_uuid())
}

/// `approvers/<ws>/…`: the groups and chains that approve.
pub fn approvers(workspace: WorkspaceId) -> Subspace {
    Space::Approvers.of(workspace)
}

/// `key_ring/<ws>`: the data keys of a workspace, wrapped.
pub fn key_ring(workspace: WorkspaceId) -> Bytes {
    Space::KeyRing.of(workspace).to_key()
}

/// The key rings of all workspaces: a master key goes only when none of them needs it.
pub fn key_rings() -> KeyRange {
    Subspace::root().with(Space::KeyRing.name()).range()
}

/// `secret/<ws>/<name>`: a secret, sealed.
pub fn secret(workspace: WorkspaceId, name: &str) -> Bytes {
    Space::Secret.of(workspace).key(name)
}

/// All secrets of a workspace.
pub fn secrets(workspace: WorkspaceId) -> KeyRange {
    Space::Secret.of(workspace).range()
}

/// `secret_version/<ws>`: the highest number that a value of a secret was ever given.
pub fn secret_version(workspace: WorkspaceId) -> Bytes {
    Space::SecretVersion.of(workspace).to_key()
}

/// `alert_destination/<ws>/<name>`: where people are told.
pub fn alert_destination(workspace: WorkspaceId, name: &str) -> Bytes {
    Space::AlertDestination.of(workspace).key(name)
}

/// All destinations of a workspace.
pub fn alert_destinations(workspace: WorkspaceId) -> KeyRange {
    Space::AlertDestination.of(workspace).range()
}

/// `alert_rule/<ws>/<name>`: who is told of what.
pub fn alert_rule(workspace: WorkspaceId, name: &str) -> Bytes {
    Space::AlertRule.of(workspace).key(name)
}

/// All rules of a workspace.
pub fn alert_rules(workspace: WorkspaceId) -> KeyRange {
    Space::AlertRule.of(workspace).range()
}

/// The rules of all workspaces: their notifiers are started with a node.
pub fn all_alert_rules() -> KeyRange {
    Subspace::root().with(Space::AlertRule.name()).range()
}

/// `alert_cursor/<ws>`: how far the log is read for events.
pub fn alert_cursor(workspace: WorkspaceId) -> Bytes {
    Space::AlertCursor.of(workspace).to_key()
}

/// `alert_folder/<ws>/<destination>`: the equal events that are being counted.
pub fn alert_folder(workspace: WorkspaceId, destination: &str) -> Bytes {
    Space::AlertFolder.of(workspace).key(destination)
}

/// What is being counted, in all workspaces.
pub fn all_alert_folders() -> KeyRange {
    Subspace::root().with(Space::AlertFolder.name()).range()
}

/// `delivery/<ws>/<id>`: a message that its destination has not taken.
pub fn delivery(workspace: WorkspaceId, id: u64) -> Bytes {
    Space::Delivery.of(workspace).key(id)
}

/// All messages of a workspace on their way.
pub fn deliveries(workspace: WorkspaceId) -> KeyRange {
    Space::Delivery.of(workspace).range()
}

/// The messages of all workspaces on their way.
pub fn all_deliveries() -> KeyRange {
    Subspace::root().with(Space::Delivery.name()).range()
}

/// `next_delivery/<ws>`: the id that the next message gets; none is ever given twice.
pub fn next_delivery(workspace: WorkspaceId) -> Bytes {
    Space::NextDelivery.of(workspace).to_key()
}

/// `dead_letter/<ws>/<id>`: a message that was given up.
pub fn dead_letter(workspace: WorkspaceId, id: u64) -> Bytes {
    Space::DeadLetter.of(workspace).key(id)
}

/// All dead letters of a workspace.
pub fn dead_letters(workspace: WorkspaceId) -> KeyRange {
    Space::DeadLetter.of(workspace).range()
}

/// The id in a key of [`dead_letter`].
pub fn dead_letter_id(key: &[u8]) -> Option<u64> {
    let mut parts = Subspace::root().with(Space::DeadLetter.name()).unpack(key).ok()?;
    parts.uuid().ok()?;
    let id = parts.u64().ok()?;
    parts.end().ok()?;
    Some(id)
}

/// The workspace in a key of [`alert_rule`], [`delivery`] or [`alert_folder`].
pub fn workspace_of(key: &[u8]) -> Option<WorkspaceId> {
    let mut parts = Subspace::root().unpack(key).ok()?;
    parts.str().ok()?;
    parts.uuid().ok().map(WorkspaceId::from_uuid)
}

/// `api_key/<SHA-256 of the key>`: what an API key is good for. Not below a workspace: it is how a
/// caller's workspace is found out.
pub fn api_key(digest: &[u8; 32]) -> Bytes {
    Subspace::root().with("api_key").key(digest.as_slice())
}

/// `api_key_id/<ws>/<id>`: the digest of the key with an id.
pub fn api_key_id(workspace: WorkspaceId, id: &str) -> Bytes {
    Space::ApiKeyId.of(workspace).key(id)
}

/// All key ids of a workspace.
pub fn api_key_ids(workspace: WorkspaceId) -> KeyRange {
    Space::ApiKeyId.of(workspace).range()
}

/// `tree/<ws>`: size of the Merkle tree and how far each shard's log is in it.
pub fn tree(workspace: WorkspaceId) -> Bytes {
    Space::Tree.of(workspace).to_key()
}

/// `tile/<ws>/<level>/<index>`: a tile of the Merkle tree.
pub fn tile(workspace: WorkspaceId, level: u8, index: u64) -> Bytes {
    Space::Tile.of(workspace).with(u64::from(level)).key(index)
}

/// `segment/<ws>/<first leaf>`: where a run of leaves stands in the shards' logs.
pub fn segment(workspace: WorkspaceId, first_leaf: u64) -> Bytes {
    segments_of(workspace).key(first_leaf)
}

/// All segments of a workspace.
pub fn segments(workspace: WorkspaceId) -> KeyRange {
    segments_of(workspace).range()
}

/// The segments' subspace, for reading first leaves back.
pub fn segments_of(workspace: WorkspaceId) -> Subspace {
    Space::Segment.of(workspace)
}

/// `checkpoint/<ws>`: the latest signed checkpoint.
pub fn checkpoint(workspace: WorkspaceId) -> Bytes {
    Space::Checkpoint.of(workspace).to_key()
}

/// `restored/<ws>`: from which backup the workspace came; its tenant makes an entry of it.
pub fn restored(workspace: WorkspaceId) -> Bytes {
    Space::Restored.of(workspace).to_key()
}

/// `restoring/<ws>`: a restore is under way, or was cut off. Not one of the workspace's spaces: it is there while the
/// workspace is not.
pub fn restoring(workspace: WorkspaceId) -> Bytes {
    Subspace::root().with("restoring").key(*workspace.as_uuid())
}

fn policy_revisions_of(workspace: WorkspaceId, name: &str) -> Subspace {
    Space::PolicyRevision.of(workspace).with(name)
}

fn of_window(space: Space, id: &WindowId) -> Subspace {
    with_spender(space.of(id.workspace), &id.spender).with(id.period.as_str()).with(&*id.zone)
}

fn with_spender(space: Subspace, spender: &Spender) -> Subspace {
    match spender {
        Spender::Agent(agent) => space.with("agent").with(*agent.as_uuid()),
        Spender::Team(team) => space.with("team").with(&**team),
        Spender::Workspace => space.with("workspace"),
    }
}

/// The name in a key of [`policy`].
pub fn policy_name(key: &[u8]) -> Option<String> {
    let mut parts = Subspace::root().with(Space::Policy.name()).unpack(key).ok()?;
    parts.uuid().ok()?;
    let name = parts.str().ok()?.into_owned();
    parts.end().ok()?;
    Some(name)
}
