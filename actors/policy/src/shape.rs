//! The one table of what a policy document may contain. The validator walks a document along it, the
//! JSON Schema for editors is printed from it: neither can know a field that the other does not.

/// An object with known keys.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) doc: &'static str,
    pub(crate) fields: &'static [Field],
}

/// One key of a [`Section`].
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) key: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) required: bool,
    pub(crate) default: Option<Default>,
    pub(crate) shape: Shape,
}

/// What a field is when it is not written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Default {
    Text(&'static str),
    Boolean(bool),
    Integer(i64),
}

/// What a value must be.
#[derive(Debug)]
pub(crate) enum Shape {
    Text(Form),
    Boolean,
    Integer {
        min: i64,
    },
    /// A decimal amount greater than zero.
    Amount,
    List(Form),
    /// A list with at least one entry.
    NonEmptyList(Form),
    /// An object with free keys.
    Map(Keys, &'static Section),
    Section(&'static Section),
    /// An object with at least one of its known keys.
    AnyOf(&'static Section),
}

/// What the keys of a [`Shape::Map`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Names of tools: any text that is not empty.
    Tools,
    /// Names as policies have them.
    Names,
}

/// What a text must be. The forms that need more than a look at the text itself (a time zone, a pattern,
/// a condition) are checked where they are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Free,
    NonEmpty,
    ApiVersion,
    Kind,
    Name,
    Scope,
    Host,
    StartTime,
    EndTime,
    Timezone,
    ActionOnExceed,
    Pattern,
    Condition,
    Capability,
    Consequence,
    OnStreamMatch,
}

/// The only known value of `apiVersion`.
pub(crate) const API_VERSION: &str = "agent-assembly/v1";
/// The only known value of `kind`.
pub(crate) const KIND: &str = "Policy";
/// The capabilities without a name after a colon.
pub(crate) const PLAIN_CAPABILITIES: [&str; 6] = [
    "file_read",
    "file_write",
    "network_outbound",
    "network_inbound",
    "terminal_exec",
    "agent_spawn",
];
/// The default of `approval_timeout_secs`.
pub(crate) const DEFAULT_APPROVAL_SECONDS: u64 = 300;

const fn optional(key: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field { key, doc, required: false, default: None, shape }
}

const fn required(key: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field { key, doc, required: true, default: None, shape }
}

const fn defaulted(key: &'static str, shape: Shape, default: Default, doc: &'static str) -> Field {
    Field { key, doc, required: false, default: Some(default), shape }
}

/// The envelope format.
pub(crate) static ENVELOPE: Section = Section {
    doc: "A policy of Agent Assembly: what agents may do.",
    fields: &[
        required("apiVersion", Shape::Text(Form::ApiVersion), "The version of this format."),
        required("kind", Shape::Text(Form::Kind), "The kind of document."),
        required("metadata", Shape::Section(&METADATA), "What the policy is called."),
        required("spec", Shape::Section(&SPEC), "The rules."),
    ],
};

static METADATA: Section = Section {
    doc: "What the policy is called.",
    fields: &[
        required(
            "name",
            Shape::Text(Form::Name),
            "The name shown in the console and the audit log: letters, digits, `.`, `_` and `-`, at most 128.",
        ),
        optional("version", Shape::Text(Form::Free), "Your own revision of the policy."),
        optional("description", Shape::Text(Form::Free), "What the policy is for."),
    ],
};

macro_rules! rules {
    () => {
        [
            defaulted(
                "scope",
                Shape::Text(Form::Scope),
                Default::Text("global"),
                "Whom the policy applies to: global, org:<id>, team:<id>, agent:<uuid> or tool:<name>.",
            ),
            optional("network", Shape::Section(&NETWORK), "Network egress policy. Written without an allowlist, no outbound connection is permitted."),
            optional("schedule", Shape::Section(&SCHEDULE), "Active-hours restriction."),
            optional("budget", Shape::Section(&BUDGET), "Spend cap per agent."),
            optional("data", Shape::Section(&DATA), "Detection of personal data and credentials."),
            optional("tools", Shape::Map(Keys::Tools, &TOOL), "Per-tool rules, keyed by tool name."),
            optional("capabilities", Shape::Section(&CAPABILITIES), "Capability allow and deny lists."),
            defaulted(
                "approval_timeout_secs",
                Shape::Integer { min: 1 },
                Default::Integer(DEFAULT_APPROVAL_SECONDS as i64),
                "Seconds before an approval request expires, for the whole document.",
            ),
            optional("approval", Shape::Section(&APPROVAL), "Overrides of approval escalation."),
            optional(
                "sequences",
                Shape::Map(Keys::Names, &SEQUENCE),
                "What a tool's result means for later calls of the same session, keyed by the name of the rule.",
            ),
        ]
    };
}

static RULES: [Field; 10] = rules!();

/// The rules of an envelope document.
pub(crate) static SPEC: Section = Section { doc: "The rules.", fields: &RULES };

/// The flat format: the rules and an informational version.
pub(crate) static FLAT: Section = Section {
    doc: "A policy of Agent Assembly in the flat format, named after its file.",
    fields: &{
        let [a, b, c, d, e, f, g, h, i, j] = rules!();
        let version =
            optional("version", Shape::Text(Form::Free), "Schema version tag. Informational.");
        [version, a, b, c, d, e, f, g, h, i, j]
    },
};

static NETWORK: Section = Section {
    doc: "Outbound network connections the agent may initiate.",
    fields: &[optional(
        "allowlist",
        Shape::List(Form::Host),
        "Hosts the agent may connect to. `*.slack.com` matches any depth below slack.com, `*` every host.",
    )],
};

static SCHEDULE: Section = Section {
    doc: "When the agent may run.",
    fields: &[optional("active_hours", Shape::Section(&ACTIVE_HOURS), "The daily window.")],
};

static ACTIVE_HOURS: Section = Section {
    doc: "A daily window, its start included, its end not.",
    fields: &[
        required("start", Shape::Text(Form::StartTime), "Start of the window, HH:MM."),
        required(
            "end",
            Shape::Text(Form::EndTime),
            "End of the window, HH:MM, later than start; 24:00 for the end of the day.",
        ),
        required("timezone", Shape::Text(Form::Timezone), "IANA name of the zone both are in."),
    ],
};

static BUDGET: Section = Section {
    doc: "What one agent may spend.",
    fields: &[
        optional("daily_limit_usd", Shape::Amount, "Most US dollars per calendar day."),
        optional(
            "monthly_limit_usd",
            Shape::Amount,
            "Most US dollars per calendar month; not below daily_limit_usd.",
        ),
        defaulted(
            "timezone",
            Shape::Text(Form::Timezone),
            Default::Text("UTC"),
            "IANA name of the zone in which days and months begin.",
        ),
        defaulted(
            "action_on_exceed",
            Shape::Text(Form::ActionOnExceed),
            Default::Text("deny"),
            "deny refuses what would spend; suspend refuses everything until the window resets.",
        ),
    ],
};

/// The values of `budget.action_on_exceed`.
pub(crate) const ACTIONS_ON_EXCEED: [&str; 2] = ["deny", "suspend"];

static DATA: Section = Section {
    doc: "What must not appear in what an agent sends or receives.",
    fields: &[
        optional(
            "sensitive_patterns",
            Shape::List(Form::Pattern),
            "RE2 patterns. A match anywhere in an action blocks it.",
        ),
        defaulted(
            "on_stream_match",
            Shape::Text(Form::OnStreamMatch),
            Default::Text("cut"),
            "What a match in a stream does that is passed on as it comes: cut ends it before the match; redact puts [REDACTED] in its place; flag records it.",
        ),
    ],
};

/// The values of `data.on_stream_match`.
pub(crate) const ON_STREAM_MATCH: [&str; 3] = ["cut", "redact", "flag"];

static TOOL: Section = Section {
    doc: "The rules of one tool.",
    fields: &[
        defaulted(
            "allow",
            Shape::Boolean,
            Default::Boolean(true),
            "Whether the tool may be called.",
        ),
        optional(
            "limit_per_hour",
            Shape::Integer { min: 0 },
            "Most admitted calls in any 60 minutes.",
        ),
        optional(
            "requires_approval_if",
            Shape::Text(Form::Condition),
            "CEL expression; when true, a person must approve the call.",
        ),
    ],
};

static CAPABILITIES: Section = Section {
    doc: "Capabilities across all tools and actions. deny beats allow.",
    fields: &[
        optional(
            "allow",
            Shape::List(Form::Capability),
            "When written, exhaustive for actions and tools; for models once one model: entry is listed.",
        ),
        optional("deny", Shape::List(Form::Capability), "What is never permitted."),
    ],
};

static APPROVAL: Section = Section {
    doc: "Overrides for approvals that this policy asks for.",
    fields: &[
        optional(
            "timeout_seconds",
            Shape::Integer { min: 1 },
            "Seconds before a request expires as denied.",
        ),
        optional(
            "escalation_role",
            Shape::Text(Form::NonEmpty),
            "Group or role that must approve.",
        ),
    ],
};

static SEQUENCE: Section = Section {
    doc: "One rule: after such a result, these tools are restricted for the rest of the session.",
    fields: &[
        required(
            "after",
            Shape::AnyOf(&AFTER),
            "The results that arm the rule: tools, result_matches or both.",
        ),
        required("then", Shape::Section(&THEN), "What is restricted from then on."),
    ],
};

static AFTER: Section = Section {
    doc: "The results that arm the rule for the rest of the session.",
    fields: &[
        optional(
            "tools",
            Shape::NonEmptyList(Form::NonEmpty),
            "Results of these tools; when not written, of any tool.",
        ),
        optional(
            "result_matches",
            Shape::Text(Form::Pattern),
            "RE2 pattern, searched in every text of the result; when not written, any result arms.",
        ),
    ],
};

static THEN: Section = Section {
    doc: "What an armed rule restricts.",
    fields: &[
        required("tools", Shape::NonEmptyList(Form::NonEmpty), "Calls of these tools."),
        required(
            "decision",
            Shape::Text(Form::Consequence),
            "deny refuses the calls; require_approval puts each before a person.",
        ),
    ],
};

/// The values of `then.decision`.
pub(crate) const CONSEQUENCES: [&str; 2] = ["deny", "require_approval"];
