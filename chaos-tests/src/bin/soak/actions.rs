//! What the agents of a soak do, and the policies they do it under.

use aa_ledger::ActionSummary;
use aa_protocol::{Action, ActionId};

/// The actions, in their JSON form. An action's id ends in its index here, so that whoever reads the log
/// afterwards knows exactly what was asked.
const ACTIONS: [&str; 16] = [
    r#"{"kind":"tool_call","tool":"search","args":{"query":"governance of agents","limit":10}}"#,
    r#"{"kind":"tool_call","tool":"bash","args":{"cmd":"ls -l /tmp"}}"#,
    r#"{"kind":"tool_call","tool":"deploy","args":{"target":"staging","replicas":3}}"#,
    r#"{"kind":"tool_call","tool":"deploy","args":{"target":"production","replicas":12}}"#,
    r#"{"kind":"tool_call","tool":"mail","args":{"to":"a@example.com","text":"the word is swordfish"}}"#,
    r#"{"kind":"tool_result","tool":"search","content":{"hits":[{"title":"one"},{"title":"two"}]}}"#,
    r#"{"kind":"tool_result","tool":"mail","content":"swordfish again"}"#,
    r#"{"kind":"llm_call","model":"large-1","host":"api.example.com","messages":[{"role":"user","content":"hello"}],"max_output_tokens":200}"#,
    r#"{"kind":"llm_result","model":"large-1","content":"hello to you","usage":{"input_tokens":9,"output_tokens":4}}"#,
    r#"{"kind":"network_connect","host":"api.example.com","port":443}"#,
    r#"{"kind":"network_connect","host":"elsewhere.test","port":8443}"#,
    r#"{"kind":"network_listen","port":9000}"#,
    r#"{"kind":"file_read","path":"/etc/hostname"}"#,
    r#"{"kind":"file_write","path":"/tmp/report.txt"}"#,
    r#"{"kind":"process_exec","argv":["git","status","--short"]}"#,
    r#"{"kind":"agent_spawn","child":"summariser"}"#,
];

/// Two documents, each with the contents it has in turn.
pub(crate) const POLICIES: [(&str, &[&str]); 2] = [
    (
        "base",
        &[
            "scope: global",
            "scope: global\ncapabilities: {deny: [terminal_exec, agent_spawn]}",
            "scope: global\nnetwork: {allowlist: ['*.example.com']}",
            "scope: global\ndata: {sensitive_patterns: ['swordfish', '[0-9]{16}']}",
            "scope: global\ncapabilities: {allow: [file_read, network_outbound, 'mcp_tool:*']}\nnetwork: {allowlist: ['api.example.com']}",
        ],
    ),
    (
        "tools",
        &[
            "scope: global\ntools: {bash: {limit_per_hour: 40}}",
            "scope: global\ntools: {bash: {allow: false}}",
            "scope: global\ntools: {deploy: {requires_approval_if: \"args.target == 'production'\"}}",
            "scope: global\ntools: {bash: {limit_per_hour: 100}, deploy: {requires_approval_if: 'args.replicas > 5'}, mail: {limit_per_hour: 20}}",
        ],
    ),
];

/// Actions that can be asked for.
pub(crate) struct Actions(Vec<Action>);

// === impl Actions ===

impl Actions {
    /// All of them.
    ///
    /// # Errors
    /// One does not read.
    pub(crate) fn new() -> Result<Self, serde_json::Error> {
        ACTIONS.iter().map(|text| serde_json::from_str(text)).collect::<Result<_, _>>().map(Self)
    }

    /// A fresh id and the action that it stands for.
    pub(crate) fn any(&self, random: &mut fastrand::Rng) -> (ActionId, &Action) {
        // Most of what agents do are calls of tools.
        let index =
            if random.u8(..) < 128 { random.usize(..5) } else { random.usize(..self.0.len()) };
        let mut id = uuid::Uuid::new_v4().into_bytes();
        id[15] = index as u8;
        (ActionId::from_bytes(id), &self.0[index])
    }

    /// The action that an id stands for.
    pub(crate) fn of(&self, id: ActionId) -> Option<&Action> {
        self.0.get(usize::from(id.to_bytes()[15]))
    }

    /// The action that a recorded summary is of, for whoever decides it again.
    pub(crate) fn summarised(&self, summary: &ActionSummary<'_>) -> Option<Action> {
        self.of(summary.id).filter(|action| action.kind() == summary.kind).cloned()
    }
}
