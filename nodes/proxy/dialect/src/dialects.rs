//! Which hosts speak which dialect.

use std::{fmt, str::FromStr};

use http::Method;

use crate::{
    bedrock, compatible, gemini,
    head::{Head, Route},
    mcp,
    operation::Operation,
    wire::{Counter, Wire},
};

/// The dialects, and the hosts that speak them.
#[derive(Clone, Debug, Default)]
pub struct Dialects {
    rules: Vec<HostRule>,
}

/// A dialect by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DialectName {
    /// OpenAI: chat completions, responses, completions, embeddings.
    OpenAi,
    /// The same in Azure, where a path may name the deployment, and Anthropic's messages.
    Azure,
    /// Anthropic's messages.
    Anthropic,
    /// Google's Gemini, in AI Studio and Vertex AI.
    Gemini,
    /// Amazon Bedrock.
    Bedrock,
    /// Mistral, which speaks like OpenAI.
    Mistral,
    /// Cohere.
    Cohere,
    /// Whoever speaks like OpenAI, like Anthropic or like both.
    Compatible,
    /// An MCP server.
    Mcp,
}

/// A name that no dialect has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no dialect is named `{name}`; write one of {}", DialectName::all_names())]
pub struct UnknownDialect {
    /// The name.
    pub name: String,
}

/// Why a rule for a host was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostRuleError {
    /// The host is none.
    #[error(
        "`{0}` is no host: write a name or an address without scheme, port and path, or `*.` and a suffix"
    )]
    Host(String),
    /// The prefix is none.
    #[error("`{0}` is no path prefix: write one that begins with `/`, without query, or nothing")]
    Prefix(String),
}

#[derive(Clone, Debug)]
struct HostRule {
    /// Lower case; `.suffix` for all hosts below it.
    host: String,
    dialect: DialectName,
    prefix: String,
}

/// Hosts of providers: exact, or all below a suffix that begins with a dot.
const BUILT_IN: [(&str, DialectName); 17] = [
    ("api.openai.com", DialectName::OpenAi),
    (".api.openai.com", DialectName::OpenAi),
    (".openai.azure.com", DialectName::Azure),
    (".openai.azure.us", DialectName::Azure),
    (".openai.azure.cn", DialectName::Azure),
    (".cognitiveservices.azure.com", DialectName::Azure),
    (".services.ai.azure.com", DialectName::Azure),
    (".models.ai.azure.com", DialectName::Azure),
    ("api.anthropic.com", DialectName::Anthropic),
    ("generativelanguage.googleapis.com", DialectName::Gemini),
    ("aiplatform.googleapis.com", DialectName::Gemini),
    ("api.mistral.ai", DialectName::Mistral),
    ("codestral.mistral.ai", DialectName::Mistral),
    ("api.cohere.com", DialectName::Cohere),
    (".api.cohere.com", DialectName::Cohere),
    ("api.cohere.ai", DialectName::Cohere),
    (".api.cohere.ai", DialectName::Cohere),
];

// === impl Dialects ===

impl Dialects {
    /// The providers whose hosts are known.
    pub const fn built_in() -> Self {
        Self { rules: Vec::new() }
    }

    /// Also hosts that speak a dialect: exact or `*.suffix`, below a path prefix or, when it is empty, anywhere.
    /// Such a rule goes before those that are built in, and of several the first that fits.
    ///
    /// # Errors
    /// The host or the prefix is none.
    pub fn with_host(
        mut self,
        host: &str,
        dialect: DialectName,
        prefix: &str,
    ) -> Result<Self, HostRuleError> {
        let lower = host.trim_end_matches('.').to_ascii_lowercase();
        let name = lower.strip_prefix("*.").unwrap_or(&lower);
        let is_address = name.parse::<std::net::Ipv6Addr>().is_ok();
        let is_host = !name.is_empty()
            && name.len() <= 253
            && !name.contains(|char: char| char.is_whitespace() || "/@?#*[]".contains(char))
            && (is_address || !name.contains(':'));
        if !is_host {
            return Err(HostRuleError::Host(host.to_owned()));
        }
        let is_prefix =
            prefix.is_empty() || prefix.starts_with('/') && !prefix.contains(['?', '#', '%', ' ']);
        if !is_prefix {
            return Err(HostRuleError::Prefix(prefix.to_owned()));
        }
        let host = lower.strip_prefix('*').map_or(lower.clone(), str::to_owned);
        self.rules.push(HostRule { host, dialect, prefix: prefix.to_owned() });
        Ok(self)
    }

    /// The dialect that a host speaks at this path, whether or not it is a call that is known.
    pub fn speaks(&self, host: &str, path: &str) -> Option<DialectName> {
        let route = Route::of(path);
        self.dialect(host, &route)
    }

    /// Which call a request is, from its host and its shape.
    pub fn recognise(&self, head: &Head<'_>) -> Option<Operation> {
        let route = Route::of(head.path);
        let dialect = self.dialect(head.host, &route);
        // A provider's call first: no header makes it a message to an MCP server.
        let call = dialect.filter(|_| head.is_call()).and_then(|dialect| dialect.operation(&route));
        let is_mcp = dialect == Some(DialectName::Mcp) || mcp::is_told(head);
        call.or_else(|| is_mcp.then(|| mcp_operation(head))?)
    }

    /// Whether only its body can tell what a request is: [`Self::recognise`] does not know it, and it posts what
    /// may be JSON.
    pub fn needs_body(&self, head: &Head<'_>) -> bool {
        let kind = head.header("content-type").unwrap_or("application/json");
        let may_be_json = kind.to_ascii_lowercase().contains("json");
        head.is_call() && may_be_json && self.recognise(head).is_none()
    }

    /// Which call a request is that only its body tells: a message to an MCP server. `start` is the beginning of
    /// the body, or better all of it, for keys come in any order.
    pub fn recognise_body(&self, head: &Head<'_>, start: &[u8]) -> Option<Operation> {
        let is_message = self.needs_body(head) && mcp::is_message(start);
        is_message.then(|| Operation::new(DialectName::Mcp, Wire::Mcp))
    }

    fn dialect(&self, host: &str, route: &Route) -> Option<DialectName> {
        let own = self.rules.iter().find(|rule| {
            fits(host, &rule.host)
                && (rule.prefix.is_empty() || route.starts_with(&Route::of(&rule.prefix)))
        });
        own.map(|rule| rule.dialect).or_else(|| built_in(host))
    }
}

fn built_in(host: &str) -> Option<DialectName> {
    let known = BUILT_IN.iter().find(|(pattern, _)| fits(host, pattern));
    if let Some((_, dialect)) = known {
        return Some(*dialect);
    }
    if compatible::HOSTS.iter().any(|pattern| fits(host, pattern)) {
        return Some(DialectName::Compatible);
    }
    if is_bedrock(host) {
        return Some(DialectName::Bedrock);
    }
    let is_vertex = host.strip_suffix("-aiplatform.googleapis.com");
    let is_vertex = is_vertex.is_some_and(|region| !region.is_empty() && !region.contains('.'));
    let is_vertex =
        is_vertex || fits(host, ".rep.googleapis.com") && host.starts_with("aiplatform.");
    is_vertex.then_some(DialectName::Gemini)
}

/// `bedrock-runtime[-fips].<region>.<Amazon's domain>`, and the same behind an endpoint of a private network.
fn is_bedrock(host: &str) -> bool {
    let of_amazon =
        [".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".api.amazonwebservices.com.cn"];
    let Some(rest) = of_amazon.iter().find_map(|domain| host.strip_suffix(domain)) else {
        return false;
    };
    rest.split('.').any(|label| matches!(label, "bedrock-runtime" | "bedrock-runtime-fips"))
}

fn mcp_operation(head: &Head<'_>) -> Option<Operation> {
    let wire = match *head.method {
        Method::POST => Wire::Mcp,
        Method::GET => Wire::McpListen,
        _ => return None,
    };
    Some(Operation::new(DialectName::Mcp, wire))
}

fn openai_wire(route: &Route) -> Option<Wire> {
    let ends = |last: &[&str]| route.ends_with(last);
    if ends(&["chat", "completions"]) {
        Some(Wire::Chat)
    } else if ends(&["responses"]) || ends(&["responses", "compact"]) {
        Some(Wire::Responses)
    } else if ends(&["completions"]) {
        Some(Wire::Completions)
    } else if ends(&["images", "generations"]) {
        Some(Wire::Images)
    } else if ends(&["audio", "speech"]) {
        Some(Wire::Speech)
    } else {
        ends(&["embeddings"]).then_some(Wire::Embeddings)
    }
}

fn anthropic_wire(route: &Route) -> Option<Wire> {
    if route.ends_with(&["v1", "messages"]) {
        return Some(Wire::Messages);
    }
    if route.ends_with(&["v1", "messages", "batches"]) {
        return Some(Wire::MessageBatch);
    }
    route.ends_with(&["messages", "count_tokens"]).then_some(Wire::Count(Counter::Anthropic))
}

fn gemini_operation(route: &Route) -> Option<Operation> {
    let target = gemini::Target::of(route)?;
    let is_anthropic = target.publisher.as_deref() == Some("anthropic");
    let (wire, streams) = match target.method.as_str() {
        "generateContent" => (Wire::Generate, false),
        "streamGenerateContent" => (Wire::Generate, true),
        "embedContent" | "batchEmbedContents" => (Wire::GeminiEmbed, false),
        "countTokens" => (Wire::Count(Counter::Gemini), false),
        "rawPredict" if is_anthropic => (Wire::Messages, false),
        "streamRawPredict" if is_anthropic => (Wire::Messages, true),
        _ => return None,
    };
    Some(Operation::new(DialectName::Gemini, wire).of_model(target.model, streams))
}

fn bedrock_operation(route: &Route) -> Option<Operation> {
    let (model, call) = bedrock::target(route)?;
    let (wire, streams) = match call {
        "converse" => (Wire::Converse, false),
        "converse-stream" => (Wire::Converse, true),
        "invoke" => (Wire::Invoke, false),
        "invoke-with-response-stream" => (Wire::Invoke, true),
        "count-tokens" => (Wire::Count(Counter::Bedrock), false),
        _ => return None,
    };
    Some(Operation::new(DialectName::Bedrock, wire).of_model(model, streams))
}

fn is_version(segment: &str) -> bool {
    matches!(segment, "v1" | "v2")
}

fn fits(host: &str, pattern: &str) -> bool {
    match pattern.strip_prefix('.') {
        Some(suffix) => {
            host.strip_suffix(suffix).is_some_and(|label| label.len() > 1 && label.ends_with('.'))
        }
        None => host == pattern,
    }
}

// === impl DialectName ===

impl DialectName {
    /// Every dialect.
    pub const ALL: [Self; 9] = [
        Self::OpenAi,
        Self::Azure,
        Self::Anthropic,
        Self::Gemini,
        Self::Bedrock,
        Self::Mistral,
        Self::Cohere,
        Self::Compatible,
        Self::Mcp,
    ];

    /// The name in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Azure => "azure",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Bedrock => "bedrock",
            Self::Mistral => "mistral",
            Self::Cohere => "cohere",
            Self::Compatible => "compatible",
            Self::Mcp => "mcp",
        }
    }

    fn all_names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }

    /// The call that a path is. Known by its end: what stands before differs from host to host.
    fn operation(self, route: &Route) -> Option<Operation> {
        let like_openai = || Some(Operation::new(self, openai_wire(route)?));
        let like_anthropic = || Some(Operation::new(self, anthropic_wire(route)?));
        match self {
            Self::OpenAi => like_openai(),
            Self::Azure => {
                let operation = like_openai().or_else(like_anthropic)?;
                Some(match route.after("deployments") {
                    Some(deployment) => operation.of_model(deployment.to_owned(), false),
                    None => operation,
                })
            }
            Self::Anthropic | Self::Compatible => like_openai().or_else(like_anthropic),
            Self::Gemini => gemini_operation(route).or_else(like_openai),
            Self::Bedrock => bedrock_operation(route).or_else(like_openai).or_else(like_anthropic),
            Self::Mistral => {
                let is_chat = route.ends_with(&["fim", "completions"])
                    || route.ends_with(&["agents", "completions"]);
                if is_chat { Some(Operation::new(self, Wire::Chat)) } else { like_openai() }
            }
            Self::Cohere => match route.segments() {
                [.., version, call] if is_version(version) && call == "chat" => {
                    Some(Operation::new(self, Wire::CohereChat))
                }
                [.., version, call] if is_version(version) && call == "embed" => {
                    Some(Operation::new(self, Wire::CohereEmbed))
                }
                _ => like_openai(),
            },
            Self::Mcp => None,
        }
    }
}

impl fmt::Display for DialectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DialectName {
    type Err = UnknownDialect;

    fn from_str(name: &str) -> Result<Self, UnknownDialect> {
        let mut all = Self::ALL.into_iter();
        all.find(|dialect| dialect.as_str() == name)
            .ok_or_else(|| UnknownDialect { name: name.to_owned() })
    }
}
