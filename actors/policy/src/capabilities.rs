//! `capabilities`: broad allow and deny lists, compiled to flags and hash sets.

use std::{collections::HashMap, fmt};

use foldhash::fast::RandomState;

use crate::{
    diagnostic::{Diagnostic, DiagnosticCode, Report, nearest, quoted},
    policy::Site,
    shape::PLAIN_CAPABILITIES,
    tree::{Node, item_path, member_path},
};

/// What an action needs, or a document grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Capability<'a> {
    /// Read access to the file system.
    FileRead,
    /// Write access to the file system; creating, deleting and renaming included.
    FileWrite,
    /// Outbound network connections.
    NetworkOutbound,
    /// Inbound network connections.
    NetworkInbound,
    /// Commands in a shell.
    TerminalExec,
    /// Starting other agents.
    AgentSpawn,
    /// One named tool.
    McpTool(&'a str),
    /// One named model.
    Model(&'a str),
}

/// Both lists of one document.
#[derive(Debug, Default)]
pub(crate) struct Capabilities {
    pub(crate) allow: Option<CapabilityList>,
    pub(crate) deny: CapabilityList,
}

/// One list, with the place of each entry.
#[derive(Debug, Default)]
pub(crate) struct CapabilityList {
    /// Where the list itself stands.
    pub(crate) site: Site,
    plain: [Option<Box<Site>>; 6],
    tools: HashMap<String, Site, RandomState>,
    models: HashMap<String, Site, RandomState>,
}

/// The first four words of a sentence about a shut-out capability.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal<'c> {
    Denied(&'c Site),
    NotAllowed(&'c Site),
}

// === impl Capability ===

impl<'a> Capability<'a> {
    /// Reads a capability as policies write it.
    pub fn parse(text: &'a str) -> Option<Self> {
        Some(match text {
            "file_read" => Self::FileRead,
            "file_write" => Self::FileWrite,
            "network_outbound" => Self::NetworkOutbound,
            "network_inbound" => Self::NetworkInbound,
            "terminal_exec" => Self::TerminalExec,
            "agent_spawn" => Self::AgentSpawn,
            _ => match text.split_once(':')? {
                ("mcp_tool", name) if !name.trim().is_empty() => Self::McpTool(name),
                ("model", name) if !name.trim().is_empty() => Self::Model(name),
                _ => return None,
            },
        })
    }

    const fn flag(self) -> Option<usize> {
        Some(match self {
            Self::FileRead => 0,
            Self::FileWrite => 1,
            Self::NetworkOutbound => 2,
            Self::NetworkInbound => 3,
            Self::TerminalExec => 4,
            Self::AgentSpawn => 5,
            Self::McpTool(_) | Self::Model(_) => return None,
        })
    }
}

impl fmt::Display for Capability<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::McpTool(name) => write!(f, "mcp_tool:{name}"),
            Self::Model(name) => write!(f, "model:{name}"),
            plain => f.write_str(plain.flag().map_or("", |flag| PLAIN_CAPABILITIES[flag])),
        }
    }
}

// === impl Capabilities ===

impl Capabilities {
    pub(crate) fn compile(section: &Node, path: &str, report: &mut Report) -> Self {
        let list = |key, report: &mut Report| {
            let member = section.member(key)?;
            let path = member_path(path, key);
            let site = Site::new(&path, member.place);
            Some(CapabilityList::compile(&member.node, site, &path, report))
        };
        let allow = list("allow", report);
        let deny = list("deny", report).unwrap_or_default();
        let compiled = Self { allow, deny };
        compiled.warn_of_contradictions(report);
        compiled
    }

    /// Why a capability is shut out, if it is.
    pub(crate) fn refusal(&self, capability: Capability<'_>) -> Option<Refusal<'_>> {
        if let Some(site) = self.deny.get(capability) {
            return Some(Refusal::Denied(site));
        }
        let allow = self.allow.as_ref()?;
        // Models are a family of their own: restricted only once one of them is listed.
        let unrestricted = matches!(capability, Capability::Model(_)) && allow.models.is_empty();
        let admitted = unrestricted || allow.get(capability).is_some();
        (!admitted).then_some(Refusal::NotAllowed(&allow.site))
    }

    fn warn_of_contradictions(&self, report: &mut Report) {
        let Some(allow) = &self.allow else { return };
        for (capability, site) in allow.entries() {
            if self.deny.get(capability).is_some() {
                let name = quoted(&capability.to_string());
                report.warning(
                    Diagnostic::new(
                        DiagnosticCode::ContradictoryCapability,
                        &*site.path,
                        site.place(),
                        format!("{name} is also in `deny`, which takes precedence"),
                    )
                    .with_help("remove it from one of the two lists"),
                );
            }
        }
    }
}

// === impl CapabilityList ===

impl CapabilityList {
    fn compile(list: &Node, site: Site, path: &str, report: &mut Report) -> Self {
        let mut compiled = Self { site, ..Self::default() };
        for (index, item) in list.items().iter().enumerate() {
            let Some(text) = item.text() else { continue };
            let path = item_path(path, index);
            match Capability::parse(text) {
                Some(capability) => compiled.insert(capability, Site::new(&path, item.place)),
                None if report.errors_are_full() => {}
                None => report.error(unknown(text, &path, item)),
            }
        }
        compiled
    }

    fn insert(&mut self, capability: Capability<'_>, site: Site) {
        match capability {
            Capability::McpTool(name) => drop(self.tools.insert(name.to_owned(), site)),
            Capability::Model(name) => drop(self.models.insert(name.to_owned(), site)),
            plain => {
                if let Some(flag) = plain.flag() {
                    self.plain[flag] = Some(Box::new(site));
                }
            }
        }
    }

    /// Where a capability is listed, if it is. Names compare exactly.
    pub(crate) fn get(&self, capability: Capability<'_>) -> Option<&Site> {
        match capability {
            Capability::McpTool(name) => self.tools.get(name),
            Capability::Model(name) => self.models.get(name),
            plain => self.plain[plain.flag()?].as_deref(),
        }
    }

    fn entries(&self) -> impl Iterator<Item = (Capability<'_>, &Site)> {
        let plain = PLAIN_CAPABILITIES
            .iter()
            .zip(&self.plain)
            .filter_map(|(name, site)| Some((Capability::parse(name)?, site.as_deref()?)));
        let tools = self.tools.iter().map(|(name, site)| (Capability::McpTool(name), site));
        let models = self.models.iter().map(|(name, site)| (Capability::Model(name), site));
        plain.chain(tools).chain(models)
    }
}

fn unknown(text: &str, path: &str, item: &Node) -> Diagnostic {
    let (prefix, name) = text.split_once(':').unwrap_or((text, "?"));
    let message = if matches!(prefix, "mcp_tool" | "model") {
        format!("{} names nothing", quoted(text))
    } else {
        format!("{} is not a capability", quoted(text))
    };
    let help = match nearest(prefix, PLAIN_CAPABILITIES.into_iter().chain(["mcp_tool", "model"])) {
        Some(family @ ("mcp_tool" | "model")) if name.trim().is_empty() || name == "?" => {
            format!("write `{family}:<name>`")
        }
        Some(family @ ("mcp_tool" | "model")) => format!("write `{family}:{name}`"),
        Some(plain) => format!("write `{plain}`"),
        None => {
            format!("known are {}, mcp_tool:<name> and model:<name>", PLAIN_CAPABILITIES.join(", "))
        }
    };
    Diagnostic::new(DiagnosticCode::UnknownCapability, path, item.place, message).with_help(help)
}
