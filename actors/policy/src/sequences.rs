//! `sequences`: what a tool's result means for later calls of the same session.
//!
//! A result that matches the `after` of a sequence arms it; a call that its `then` names is restricted while it is
//! armed. Which sequences are armed is a fact like any other: it is kept by the caller, who is told what arms.

use std::{collections::HashSet, sync::Arc};

use aa_protocol::Action;
use foldhash::fast::RandomState;

use crate::{
    capabilities::{Capabilities, Capability},
    data::pattern_error,
    decoded::visit_texts,
    diagnostic::{Diagnostic, DiagnosticCode, Report, quoted},
    facts::ArmedFacts,
    patterns::{Next, Patterns},
    policy::{Site, Tools},
    re2::{self, Compiled},
    scope::Scope,
    set::Document,
    tree::{Node, item_path, member_path},
};

/// A sequence, by the name of its document and its own. A later revision of the document that has the
/// name has the same sequence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceRef {
    /// The document's name.
    pub policy: Arc<str>,
    /// The sequence's name in it.
    pub sequence: Arc<str>,
}

/// The sequences of one document, in its order.
#[derive(Debug)]
pub(crate) struct Sequences {
    all: Vec<Sequence>,
    /// What results are searched for, all at once.
    patterns: Option<Patterns>,
    /// The sequence of each pattern, as an index.
    of_pattern: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) name: Arc<str>,
    pub(crate) site: Site,
    pub(crate) consequence: Consequence,
    /// The tools whose results arm it; `None` for every tool.
    after: Option<Names>,
    /// The pattern that a result must match, as written.
    result_matches: Option<String>,
    /// The tools whose calls it restricts.
    then: Names,
}

/// What becomes of a call while the sequence is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consequence {
    Deny,
    RequireApproval,
}

/// The rest of a document, as far as it decides whether a sequence can do anything.
pub(crate) struct Surroundings<'d> {
    pub(crate) scope: &'d Scope,
    pub(crate) tools: &'d Tools,
    pub(crate) capabilities: Option<&'d Capabilities>,
}

/// The sequences of one document that a result may still arm.
struct Watch<'d> {
    document: &'d Document,
    sequences: &'d Sequences,
    /// Of each sequence, by index.
    states: Vec<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The result has nothing to do with it, or it is armed already.
    Aside,
    /// It waits for a match.
    Waiting,
    Arms,
}

type Names = HashSet<String, RandomState>;

/// The most sequences of one document. Each may be armed in each session of each agent.
const MAX_SEQUENCES: usize = 100;

// === impl Sequences ===

impl Sequences {
    /// Compiles the section `sequences`. `None` when it has none or has errors.
    pub(crate) fn compile(
        section: &Node,
        path: &str,
        source: &str,
        surroundings: &Surroundings<'_>,
        report: &mut Report,
    ) -> Option<Self> {
        let members = section.members();
        if members.len() > MAX_SEQUENCES {
            let message = format!("{} sequences; at most {MAX_SEQUENCES} are taken", members.len());
            let place = section.place;
            report.error(Diagnostic::new(DiagnosticCode::TooLong, path, place, message));
            return None;
        }
        let mut all = Vec::with_capacity(members.len());
        let mut of_pattern = Vec::new();
        let mut compiled = Vec::new();
        for member in members {
            let path = member_path(path, &member.key);
            let site = Site::new(&path, member.place);
            let pattern = compile_pattern(&member.node, &path, source, report);
            let Some(sequence) = Sequence::compile(&member.key, &member.node, site) else {
                continue;
            };
            surroundings.warn_of_idle(&member.node, &path, report);
            if let Some(pattern) = pattern {
                of_pattern.push(all.len());
                compiled.push(pattern);
            }
            all.push(sequence);
        }
        warn_of_shadowed(&all, report);
        let size: usize = compiled.iter().map(|pattern| pattern.regex.memory_usage()).sum();
        let patterns = if compiled.is_empty() {
            Ok(None)
        } else if size > re2::MAX_COMPILED_ALL {
            Err(re2::too_large_together())
        } else {
            Patterns::new(compiled).map(Some)
        };
        match patterns {
            Ok(patterns) if !all.is_empty() => Some(Self { all, patterns, of_pattern }),
            Ok(_) => None,
            Err(error) => {
                report.error(pattern_error(&error, path, section.place));
                None
            }
        }
    }

    /// The sequences that restrict calls of a tool.
    pub(crate) fn restricting(&self, tool: &str) -> impl Iterator<Item = &Sequence> {
        self.all.iter().filter(move |sequence| sequence.then.contains(tool))
    }
}

fn compile_pattern(
    entry: &Node,
    path: &str,
    source: &str,
    report: &mut Report,
) -> Option<Compiled> {
    let node = &entry.member("after")?.node.member("result_matches")?.node;
    let path = member_path(&member_path(path, "after"), "result_matches");
    match re2::compile(node.text()?) {
        Ok(compiled) => {
            if compiled.regex.is_match("") {
                let message =
                    "this pattern matches the empty text, so every result with text arms the rule";
                report.warning(
                    Diagnostic::new(DiagnosticCode::MatchesEverything, path, node.place, message)
                        .with_help("make it require at least one character, or leave it out"),
                );
            }
            Some(compiled)
        }
        Err(error) => {
            let place = node.place_of_character(source, error.offset);
            report.error(pattern_error(&error, &path, place));
            None
        }
    }
}

/// A request for approval that a denial always comes before.
fn warn_of_shadowed(all: &[Sequence], report: &mut Report) {
    for asking in all.iter().filter(|one| one.consequence == Consequence::RequireApproval) {
        let denying = all.iter().find(|other| {
            other.consequence == Consequence::Deny
                && other.is_armed_whenever(asking)
                && other.then.is_superset(&asking.then)
        });
        let Some(denying) = denying else { continue };
        let message = format!(
            "nobody is ever asked: what arms this arms {} too, which denies the same calls",
            quoted(&denying.name)
        );
        report.warning(
            Diagnostic::new(
                DiagnosticCode::IdleSequence,
                &*asking.site.path,
                asking.site.place(),
                message,
            )
            .with_help("remove one of both"),
        );
    }
}

/// The sequences that an action arms and that are not armed yet, in the order of the documents.
pub(crate) fn armed_by<'d>(
    documents: impl Iterator<Item = &'d Document>,
    armed: &dyn ArmedFacts,
    action: &Action,
) -> Vec<SequenceRef> {
    let Action::ToolResult { tool, .. } = action else { return Vec::new() };
    let mut watches: Vec<Watch<'d>> =
        documents.filter_map(|document| Watch::of(document, tool, armed)).collect();
    if watches.iter().any(Watch::is_waiting) {
        visit_texts(action, &mut |site, text, _| {
            // The tool's name is not part of what it returned.
            if site.pointer.starts_with("/content") {
                watches.iter_mut().for_each(|watch| watch.search(text));
            }
            watches.iter().any(Watch::is_waiting)
        });
    }
    watches.iter().flat_map(Watch::arms).collect()
}

// === impl Sequence ===

impl Sequence {
    /// `None` for an entry with errors, which are reported where its shape is checked.
    fn compile(name: &str, entry: &Node, site: Site) -> Option<Self> {
        let after = &entry.member("after")?.node;
        let then = &entry.member("then")?.node;
        let consequence = match then.member("decision")?.node.text()? {
            "deny" => Consequence::Deny,
            _ => Consequence::RequireApproval,
        };
        let names = |node: &Node| -> Names {
            node.items().iter().filter_map(Node::text).map(str::to_owned).collect()
        };
        let pattern = after.member("result_matches").and_then(|member| member.node.text());
        Some(Self {
            name: name.into(),
            site,
            consequence,
            after: after.member("tools").map(|member| names(&member.node)),
            result_matches: pattern.map(str::to_owned),
            then: names(&then.member("tools")?.node),
        })
    }

    fn watches(&self, tool: &str) -> bool {
        self.after.as_ref().is_none_or(|tools| tools.contains(tool))
    }

    /// Whether every result that arms `other` arms this one.
    fn is_armed_whenever(&self, other: &Self) -> bool {
        let tools = match (&self.after, &other.after) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(others)) => own.is_superset(others),
        };
        tools && (self.result_matches.is_none() || self.result_matches == other.result_matches)
    }
}

// === impl Surroundings ===

impl Surroundings<'_> {
    fn warn_of_idle(&self, entry: &Node, path: &str, report: &mut Report) {
        let list = |section: &str| {
            let tools = entry.member(section)?.node.member("tools")?;
            Some((tools, member_path(&member_path(path, section), "tools")))
        };
        if let Some((tools, path)) = list("after") {
            let items = tools.node.items();
            if !items.is_empty() && items.iter().all(|item| self.is_shut(item)) {
                let message =
                    "this document denies every call of these tools, so no result of them arms it";
                report.warning(
                    Diagnostic::new(DiagnosticCode::IdleSequence, path, tools.place, message)
                        .with_help("name tools that may be called, or remove the sequence"),
                );
            }
        }
        let Some((tools, path)) = list("then") else { return };
        for (index, item) in tools.node.items().iter().enumerate() {
            let Some(tool) = item.text() else { continue };
            let message = match self.scope {
                Scope::Tool(only) if only != tool => {
                    format!("this document is about calls of {} only", quoted(only))
                }
                _ if self.is_shut(item) => {
                    format!("this document denies every call of {} anyway", quoted(tool))
                }
                _ => continue,
            };
            let path = item_path(&path, index);
            report.warning(
                Diagnostic::new(DiagnosticCode::IdleSequence, path, item.place, message)
                    .with_help("remove it here: the sequence changes nothing for it"),
            );
        }
    }

    fn is_shut(&self, item: &Node) -> bool {
        let Some(tool) = item.text() else { return false };
        let by_entry = self.tools.get(tool).is_some_and(|rule| rule.denied.is_some());
        let refuses = |c: &Capabilities| c.refusal(Capability::McpTool(tool)).is_some();
        by_entry || self.capabilities.is_some_and(refuses)
    }
}

// === impl Watch ===

impl<'d> Watch<'d> {
    fn of(document: &'d Document, tool: &str, armed: &dyn ArmedFacts) -> Option<Self> {
        let sequences = document.policy.sequences.as_deref()?;
        let state = |sequence: &Sequence| {
            if !sequence.watches(tool) || armed.is_armed(document.policy.name(), &sequence.name) {
                State::Aside
            } else if sequence.result_matches.is_some() {
                State::Waiting
            } else {
                State::Arms
            }
        };
        let states: Vec<_> = sequences.all.iter().map(state).collect();
        let is_concerned = states.iter().any(|state| *state != State::Aside);
        is_concerned.then_some(Self { document, sequences, states })
    }

    fn is_waiting(&self) -> bool {
        self.states.contains(&State::Waiting)
    }

    fn search(&mut self, text: &str) {
        let Self { sequences, states, .. } = self;
        let Some(patterns) = sequences.patterns.as_ref() else { return };
        if !states.contains(&State::Waiting) {
            return;
        }
        patterns.search(text, &mut |pattern, _| {
            let of = sequences.of_pattern.get(pattern);
            if let Some(state) = of.and_then(|of| states.get_mut(*of))
                && *state == State::Waiting
            {
                *state = State::Arms;
            }
            Next::Pattern
        });
    }

    fn arms(&self) -> impl Iterator<Item = SequenceRef> {
        let arming = self.sequences.all.iter().zip(&self.states);
        arming.filter(|(_, state)| **state == State::Arms).map(|(sequence, _)| SequenceRef {
            policy: self.document.policy.shared_name(),
            sequence: Arc::clone(&sequence.name),
        })
    }
}

// === impl SequenceRef ===

impl std::fmt::Display for SequenceRef {
    /// `policy/sequence`; neither name can have a slash.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.policy, self.sequence)
    }
}
