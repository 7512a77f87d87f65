//! Who is told of what.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use aa_protocol::AgentId;
use serde::{Deserialize, Serialize};

use crate::{
    destination::{Destination, DestinationError, check_name},
    event::{Event, EventKind, Severity},
};

/// Which events go to which destinations. An event matches when it passes every filter; an empty one passes all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name, of the form of a destination's.
    pub name: String,
    /// Kinds of events.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub events: BTreeSet<EventKind>,
    /// Agents.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub agents: BTreeSet<AgentId>,
    /// Teams: the agent's, or the one whose budget it is.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub teams: BTreeSet<String>,
    /// Policies that decided.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub policies: BTreeSet<String>,
    /// The least severity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_severity: Option<Severity>,
    /// The names of the destinations, 1 to [`MAX_RULE_DESTINATIONS`].
    pub destinations: BTreeSet<String>,
}

/// The destinations and rules of a workspace. Every destination that a rule names is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertBook {
    destinations: BTreeMap<String, Destination>,
    rules: BTreeMap<String, Rule>,
}

/// Why a change of an [`AlertBook`] was refused. The book is as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum BookError {
    /// The destination is not usable.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The rule is not usable.
    #[error("rule `{rule}`: `{field}` {problem}")]
    Rule {
        /// Its name, as far as it is one.
        rule: String,
        /// The field.
        field: Cow<'static, str>,
        /// What is wrong with it.
        problem: String,
    },
    /// A rule names a destination that is not there.
    #[error("rule `{rule}` sends to `{destination}`, which is no destination; set it first")]
    UnknownDestination {
        /// The rule.
        rule: String,
        /// The name.
        destination: String,
    },
    /// A destination that rules name is to be removed.
    #[error(
        "destination `{destination}` is named by the rule `{rule}`; change or remove that first"
    )]
    InUse {
        /// The destination.
        destination: String,
        /// One of the rules.
        rule: String,
    },
    /// There is none of that name.
    #[error("there is no {what} `{name}` in this workspace")]
    Unknown {
        /// `destination` or `rule`.
        what: Cow<'static, str>,
        /// The name.
        name: String,
    },
    /// There are as many as there can be.
    #[error("the workspace has {most} {what}s, and can have no more; remove one first")]
    Full {
        /// `destination` or `rule`.
        what: Cow<'static, str>,
        /// How many there can be.
        most: usize,
    },
}

/// The most destinations of a workspace.
pub const MAX_DESTINATIONS: usize = 20;
/// The most rules of a workspace.
pub const MAX_RULES: usize = 100;
/// The most destinations of a rule.
pub const MAX_RULE_DESTINATIONS: usize = 20;
/// The most entries of one filter.
pub const MAX_FILTER: usize = 100;

/// The longest name of a team or policy in a filter, in bytes.
const MAX_FILTER_TEXT: usize = 512;

// === impl Rule ===

impl Rule {
    /// A rule that sends every event to one destination.
    pub fn all(name: impl Into<String>, destination: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            events: BTreeSet::new(),
            agents: BTreeSet::new(),
            teams: BTreeSet::new(),
            policies: BTreeSet::new(),
            min_severity: None,
            destinations: BTreeSet::from([destination.into()]),
        }
    }

    /// Whether the event passes every filter. An event without a team passes no filter of teams, and likewise.
    pub fn matches(&self, event: &Event) -> bool {
        let text = |filter: &BTreeSet<String>, value: &Option<String>| {
            filter.is_empty() || value.as_ref().is_some_and(|value| filter.contains(value))
        };
        (self.events.is_empty() || self.events.contains(&event.kind))
            && (self.agents.is_empty() || event.agent.is_some_and(|id| self.agents.contains(&id)))
            && text(&self.teams, &event.team)
            && text(&self.policies, &event.policy)
            && self.min_severity.is_none_or(|least| event.severity >= least)
    }

    /// Whether it is of the form it must have.
    ///
    /// # Errors
    /// The first field that is not.
    pub fn validate(&self) -> Result<(), BookError> {
        let refused = |field: &'static str, problem| BookError::Rule {
            rule: crate::text::plain(&self.name, crate::destination::MAX_NAME),
            field: field.into(),
            problem,
        };
        check_name(&self.name).map_err(|problem| refused("name", problem))?;
        if self.events.contains(&EventKind::Test) {
            return Err(refused("events", "has `test`, which is sent on request only".to_owned()));
        }
        let sizes = [
            ("agents", self.agents.len()),
            ("teams", self.teams.len()),
            ("policies", self.policies.len()),
        ];
        for (field, size) in sizes {
            if size > MAX_FILTER {
                return Err(refused(
                    field,
                    format!("has {size} entries; use at most {MAX_FILTER}"),
                ));
            }
        }
        for (field, texts) in [("teams", &self.teams), ("policies", &self.policies)] {
            let fits = |text: &String| !text.is_empty() && text.len() <= MAX_FILTER_TEXT;
            if !texts.iter().all(fits) {
                let problem = format!("has a name that has not 1 to {MAX_FILTER_TEXT} bytes");
                return Err(refused(field, problem));
            }
        }
        let count = self.destinations.len();
        if !(1..=MAX_RULE_DESTINATIONS).contains(&count) {
            let problem = format!("has {count} names; use 1 to {MAX_RULE_DESTINATIONS}");
            return Err(refused("destinations", problem));
        }
        Ok(())
    }
}

// === impl AlertBook ===

impl AlertBook {
    /// Puts a book together from its parts, as stored.
    ///
    /// # Errors
    /// What [`AlertBook::set_destination`] or [`AlertBook::set_rule`] says of one.
    pub fn restore(
        destinations: impl IntoIterator<Item = Destination>,
        rules: impl IntoIterator<Item = Rule>,
    ) -> Result<Self, BookError> {
        let mut book = Self::default();
        for destination in destinations {
            book.set_destination(destination)?;
        }
        for rule in rules {
            book.set_rule(rule)?;
        }
        Ok(book)
    }

    /// Adds a destination, or puts it in place of the one of the same name, which is returned.
    ///
    /// # Errors
    /// It is not usable, or there are [`MAX_DESTINATIONS`].
    pub fn set_destination(
        &mut self,
        destination: Destination,
    ) -> Result<Option<Destination>, BookError> {
        destination.validate()?;
        room(&self.destinations, &destination.name, "destination", MAX_DESTINATIONS)?;
        Ok(self.destinations.insert(destination.name.clone(), destination))
    }

    /// Removes a destination.
    ///
    /// # Errors
    /// There is none of that name, or a rule names it.
    pub fn remove_destination(&mut self, name: &str) -> Result<Destination, BookError> {
        if let Some(rule) = self.rules.values().find(|rule| rule.destinations.contains(name)) {
            let (destination, rule) = (name.to_owned(), rule.name.clone());
            return Err(BookError::InUse { destination, rule });
        }
        self.destinations.remove(name).ok_or_else(|| unknown("destination", name))
    }

    /// Adds a rule, or puts it in place of the one of the same name, which is returned.
    ///
    /// # Errors
    /// It is not usable, names a destination that is not there, or there are [`MAX_RULES`].
    pub fn set_rule(&mut self, rule: Rule) -> Result<Option<Rule>, BookError> {
        rule.validate()?;
        let missing = rule.destinations.iter().find(|name| !self.destinations.contains_key(*name));
        if let Some(name) = missing {
            let destination = crate::text::plain(name, crate::destination::MAX_NAME);
            return Err(BookError::UnknownDestination { rule: rule.name, destination });
        }
        room(&self.rules, &rule.name, "rule", MAX_RULES)?;
        Ok(self.rules.insert(rule.name.clone(), rule))
    }

    /// Removes a rule.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn remove_rule(&mut self, name: &str) -> Result<Rule, BookError> {
        self.rules.remove(name).ok_or_else(|| unknown("rule", name))
    }

    /// The destinations that are told of an event, each once, by name.
    pub fn route(&self, event: &Event) -> Vec<&Destination> {
        let names: BTreeSet<&String> = self
            .rules
            .values()
            .filter(|rule| rule.matches(event))
            .flat_map(|rule| &rule.destinations)
            .collect();
        names.into_iter().filter_map(|name| self.destinations.get(name)).collect()
    }

    /// Whether no event can go anywhere, so that nobody need look for any.
    pub fn is_idle(&self) -> bool {
        self.rules.is_empty()
    }

    /// A destination by name.
    pub fn destination(&self, name: &str) -> Option<&Destination> {
        self.destinations.get(name)
    }

    /// A rule by name.
    pub fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.get(name)
    }

    /// All destinations, by name.
    pub fn destinations(&self) -> impl ExactSizeIterator<Item = &Destination> {
        self.destinations.values()
    }

    /// All rules, by name.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &Rule> {
        self.rules.values()
    }
}

fn room<T>(
    known: &BTreeMap<String, T>,
    name: &str,
    what: &'static str,
    most: usize,
) -> Result<(), BookError> {
    let fits = known.len() < most || known.contains_key(name);
    fits.then_some(()).ok_or(BookError::Full { what: what.into(), most })
}

fn unknown(what: &'static str, name: &str) -> BookError {
    let name = crate::text::plain(name, crate::destination::MAX_NAME);
    BookError::Unknown { what: what.into(), name }
}
