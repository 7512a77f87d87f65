//! Where everything is stored. Every key of a tenant's data starts, after its kind, with the workspace,
//! and is built here only: what a function of this module is given decides whose data can be touched.

use aa_budget::{Period, ReservationId};
use aa_ledger::Stream;
use aa_protocol::{ActionId, AgentId, ApprovalId, WorkspaceId};
use aa_store::{KeyRange, Subspace};
use bytes::Bytes;

use crate::spender::{Spender, WindowId};

/// `workspace/<ws>`: the workspace's record.
pub fn workspace(workspace: WorkspaceId) -> Bytes {
    tenant("workspace", workspace).to_key()
}

/// All workspace records.
pub fn workspaces() -> KeyRange {
    Subspace::root().with("workspace").range()
}

/// `agent/<ws>/<agent>`: an agent's registered facts and status.
pub fn agent(workspace: WorkspaceId, agent: AgentId) -> Bytes {
    tenant("agent", workspace).key(*agent.as_uuid())
}

/// All agents of a workspace.
pub fn agents(workspace: WorkspaceId) -> KeyRange {
    tenant("agent", workspace).range()
}

/// `head/<ws>/<stream>`: the head of a stream's chain.
pub fn head(workspace: WorkspaceId, stream: Stream) -> Bytes {
    let heads = tenant("head", workspace);
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

/// `rate/<ws>/<agent>/…`: the rate windows of an agent.
pub fn rates(workspace: WorkspaceId, agent: AgentId) -> Subspace {
    tenant("rate", workspace).with(*agent.as_uuid())
}

/// `policy/<ws>/<name>`: which revision of a policy is in force.
pub fn policy(workspace: WorkspaceId, name: &str) -> Bytes {
    tenant("policy", workspace).key(name)
}

/// All policies of a workspace.
pub fn policies(workspace: WorkspaceId) -> KeyRange {
    tenant("policy", workspace).range()
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
    tenant("policy_source", workspace).with(name).with(revision)
}

/// `policy_generation/<ws>`: counts the changes of the policy set.
pub fn policy_generation(workspace: WorkspaceId) -> Bytes {
    tenant("policy_generation", workspace).to_key()
}

/// `budget/<ws>/<spender>/<period>`: what an operator set for a shared window.
pub fn budget(workspace: WorkspaceId, spender: &Spender, period: Period) -> Bytes {
    with_spender(tenant("budget", workspace), spender).key(period.as_str())
}

/// All budgets of a workspace.
pub fn budgets(workspace: WorkspaceId) -> KeyRange {
    tenant("budget", workspace).range()
}

/// `prices/<ws>`: what operators set of prices.
pub fn prices(workspace: WorkspaceId) -> Bytes {
    tenant("prices", workspace).to_key()
}

/// `window/<ws>/<spender>/<period>/<zone>`: what is spent in a window.
pub fn window(id: &WindowId) -> Bytes {
    of_window("window", id).to_key()
}

/// All windows of a spender.
pub fn windows_of(workspace: WorkspaceId, spender: &Spender) -> Subspace {
    with_spender(tenant("window", workspace), spender)
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
    of_window("reservation", id)
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
    tenant("call", workspace).with(*agent.as_uuid())
}

/// `approval/<ws>/<id>`: a request for approval.
pub fn approval(workspace: WorkspaceId, id: ApprovalId) -> Bytes {
    tenant("approval", workspace).key(*id.as_uuid())
}

/// All requests of a workspace.
pub fn approvals(workspace: WorkspaceId) -> KeyRange {
    tenant("approval", workspace).range()
}

/// `pending_approval/<ws>/<id>`: the requests nobody has decided.
pub fn pending_approval(workspace: WorkspaceId, id: ApprovalId) -> Bytes {
    tenant("pending_approval", workspace).key(*id.as_uuid())
}

/// All undecided requests, of every workspace: their actors' clocks are set when a node starts.
pub fn all_pending_approvals() -> KeyRange {
    Subspace::root().with("pending_approval").range()
}

/// The undecided requests of a workspace.
pub fn pending_approvals(workspace: WorkspaceId) -> KeyRange {
    tenant("pending_approval", workspace).range()
}

/// The request in a key of [`pending_approval`].
pub fn pending_approval_id(key: &[u8]) -> Option<(WorkspaceId, ApprovalId)> {
    let mut parts = Subspace::root().with("pending_approval").unpack(key).ok()?;
    let (workspace, id) = (parts.uuid().ok()?, parts.uuid().ok()?);
    parts.end().ok()?;
    Some((WorkspaceId::from_uuid(workspace), ApprovalId::from_uuid(id)))
}

/// The request in a key of [`approval`] or of [`pending_approval`].
pub fn approval_id(key: &[u8]) -> Option<ApprovalId> {
    if let Some((_, id)) = pending_approval_id(key) {
        return Some(id);
    }
    let mut parts = Subspace::root().with("approval").unpack(key).ok()?;
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
    tenant("asked", workspace).with(*agent.as_uuid())
}

/// `session_grant/<ws>/<agent>/…`: what people have approved for whole sessions of an agent.
pub fn session_grants(workspace: WorkspaceId, agent: AgentId) -> Subspace {
    tenant("session_grant", workspace).with(*agent.as_uuid())
}

/// `armed/<ws>/<agent>/…`: the sequences of policies that results have armed, by session.
pub fn armed(workspace: WorkspaceId, agent: AgentId) -> Subspace {
    tenant("armed", workspace).with(*agent.as_uuid())
}

/// `approvers/<ws>/…`: the groups and chains that approve.
pub fn approvers(workspace: WorkspaceId) -> Subspace {
    tenant("approvers", workspace)
}

/// `key_ring/<ws>`: the data keys of a workspace, wrapped.
pub fn key_ring(workspace: WorkspaceId) -> Bytes {
    tenant("key_ring", workspace).to_key()
}

/// The key rings of all workspaces: a master key goes only when none of them needs it.
pub fn key_rings() -> KeyRange {
    Subspace::root().with("key_ring").range()
}

/// `secret/<ws>/<name>`: a secret, sealed.
pub fn secret(workspace: WorkspaceId, name: &str) -> Bytes {
    tenant("secret", workspace).key(name)
}

/// All secrets of a workspace.
pub fn secrets(workspace: WorkspaceId) -> KeyRange {
    tenant("secret", workspace).range()
}

/// `secret_version/<ws>`: the highest number that a value of a secret was ever given.
pub fn secret_version(workspace: WorkspaceId) -> Bytes {
    tenant("secret_version", workspace).to_key()
}

/// `alert_destination/<ws>/<name>`: where people are told.
pub fn alert_destination(workspace: WorkspaceId, name: &str) -> Bytes {
    tenant("alert_destination", workspace).key(name)
}

/// All destinations of a workspace.
pub fn alert_destinations(workspace: WorkspaceId) -> KeyRange {
    tenant("alert_destination", workspace).range()
}

/// `alert_rule/<ws>/<name>`: who is told of what.
pub fn alert_rule(workspace: WorkspaceId, name: &str) -> Bytes {
    tenant("alert_rule", workspace).key(name)
}

/// All rules of a workspace.
pub fn alert_rules(workspace: WorkspaceId) -> KeyRange {
    tenant("alert_rule", workspace).range()
}

/// The rules of all workspaces: their notifiers are started with a node.
pub fn all_alert_rules() -> KeyRange {
    Subspace::root().with("alert_rule").range()
}

/// `alert_cursor/<ws>`: how far the log is read for events.
pub fn alert_cursor(workspace: WorkspaceId) -> Bytes {
    tenant("alert_cursor", workspace).to_key()
}

/// `alert_folder/<ws>/<destination>`: the equal events that are being counted.
pub fn alert_folder(workspace: WorkspaceId, destination: &str) -> Bytes {
    tenant("alert_folder", workspace).key(destination)
}

/// What is being counted, in all workspaces.
pub fn all_alert_folders() -> KeyRange {
    Subspace::root().with("alert_folder").range()
}

/// `delivery/<ws>/<id>`: a message that its destination has not taken.
pub fn delivery(workspace: WorkspaceId, id: u64) -> Bytes {
    tenant("delivery", workspace).key(id)
}

/// All messages of a workspace on their way.
pub fn deliveries(workspace: WorkspaceId) -> KeyRange {
    tenant("delivery", workspace).range()
}

/// The messages of all workspaces on their way.
pub fn all_deliveries() -> KeyRange {
    Subspace::root().with("delivery").range()
}

/// `next_delivery/<ws>`: the id that the next message gets; none is ever given twice.
pub fn next_delivery(workspace: WorkspaceId) -> Bytes {
    tenant("next_delivery", workspace).to_key()
}

/// `dead_letter/<ws>/<id>`: a message that was given up.
pub fn dead_letter(workspace: WorkspaceId, id: u64) -> Bytes {
    tenant("dead_letter", workspace).key(id)
}

/// All dead letters of a workspace.
pub fn dead_letters(workspace: WorkspaceId) -> KeyRange {
    tenant("dead_letter", workspace).range()
}

/// The id in a key of [`dead_letter`].
pub fn dead_letter_id(key: &[u8]) -> Option<u64> {
    let mut parts = Subspace::root().with("dead_letter").unpack(key).ok()?;
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
    tenant("api_key_id", workspace).key(id)
}

/// All key ids of a workspace.
pub fn api_key_ids(workspace: WorkspaceId) -> KeyRange {
    tenant("api_key_id", workspace).range()
}

/// `tree/<ws>`: size of the Merkle tree and how far each shard's log is in it.
pub fn tree(workspace: WorkspaceId) -> Bytes {
    tenant("tree", workspace).to_key()
}

/// `tile/<ws>/<level>/<index>`: a tile of the Merkle tree.
pub fn tile(workspace: WorkspaceId, level: u8, index: u64) -> Bytes {
    tenant("tile", workspace).with(u64::from(level)).key(index)
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
    tenant("segment", workspace)
}

/// `checkpoint/<ws>`: the latest signed checkpoint.
pub fn checkpoint(workspace: WorkspaceId) -> Bytes {
    tenant("checkpoint", workspace).to_key()
}

fn policy_revisions_of(workspace: WorkspaceId, name: &str) -> Subspace {
    tenant("policy_revision", workspace).with(name)
}

fn of_window(kind: &str, id: &WindowId) -> Subspace {
    with_spender(tenant(kind, id.workspace), &id.spender).with(id.period.as_str()).with(&*id.zone)
}

fn with_spender(space: Subspace, spender: &Spender) -> Subspace {
    match spender {
        Spender::Agent(agent) => space.with("agent").with(*agent.as_uuid()),
        Spender::Team(team) => space.with("team").with(&**team),
        Spender::Workspace => space.with("workspace"),
    }
}

fn tenant(kind: &str, workspace: WorkspaceId) -> Subspace {
    Subspace::root().with(kind).with(*workspace.as_uuid())
}

/// The name in a key of [`policy`].
pub fn policy_name(key: &[u8]) -> Option<String> {
    let mut parts = Subspace::root().with("policy").unpack(key).ok()?;
    parts.uuid().ok()?;
    let name = parts.str().ok()?.into_owned();
    parts.end().ok()?;
    Some(name)
}
