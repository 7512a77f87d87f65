//! An agent and one action of every kind, to decide policies on.

use std::sync::{Arc, LazyLock};

use aa_policy::{AgentPolicies, Facts, Outcome, Policy, PolicySet, decide};
use aa_protocol::{Action, AgentFacts, Timestamp};

/// 2026-11-23T12:00:00Z, a Monday.
pub(super) const NOW: Timestamp = Timestamp::from_micros(1_795_435_200_000_000);

pub(super) static AGENT: LazyLock<AgentFacts> = LazyLock::new(|| {
    serde_json::from_str(
        r#"{"id":"01234567-89ab-cdef-0123-456789abcdef","name":"researcher","org":"acme",
            "team":"platform","governance_level":"L2","labels":{"env":"prod"}}"#,
    )
    .expect("the agent is well-formed")
});

pub(super) static ACTIONS: LazyLock<Vec<Action>> = LazyLock::new(|| {
    serde_json::from_str(
        r#"[
        {"kind":"tool_call","tool":"bash","args":{"cmd":"ls -l","n":3,"f":1.5,"list":["a",1,null]}},
        {"kind":"tool_result","tool":"bash","content":{"text":"password: hunter2","ssn":"123-45-6789"}},
        {"kind":"llm_call","model":"gpt-4o","host":"API.OpenAI.com.","messages":[{"role":"user"}]},
        {"kind":"llm_result","model":"gpt-4o","content":"sk-1234","usage":{"input_tokens":1}},
        {"kind":"network_connect","host":"a.b.slack.com","port":443},
        {"kind":"network_connect","host":"::1","port":443},
        {"kind":"network_listen","port":80},
        {"kind":"file_read","path":"/etc/passwd"},
        {"kind":"file_write","path":"/tmp/x"},
        {"kind":"process_exec","argv":["ls","-l"]},
        {"kind":"agent_spawn","child":"helper"}
        ]"#,
    )
    .expect("the actions are well-formed")
});

/// What can apply to [`AGENT`] of a set of one document.
pub(super) fn policies_of(policy: Policy) -> AgentPolicies {
    let set = PolicySet::new([(Arc::new(policy), Some(1))]).expect("one document has no twin");
    set.for_agent(&AGENT)
}

/// Decides one action of an agent that has done nothing so far.
pub(super) fn decision(policies: &AgentPolicies, action: &Action) -> Outcome {
    decide(policies, &Facts::of(&AGENT), action, NOW)
}
