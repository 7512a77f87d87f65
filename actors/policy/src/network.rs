//! `network`: the outbound allowlist, compiled so that a long list costs no more than a short one.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::{
    diagnostic::{Diagnostic, DiagnosticCode, Report, quoted},
    host::{Host, HostGlob},
    policy::Site,
    tree::{Node, item_path, member_path},
};

/// The outbound policy of one document.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// Where the allowlist stands, or the section when it has none.
    pub(crate) site: Site,
    any: Option<Site>,
    exact: HashMap<Host, Site, RandomState>,
    below: HashMap<String, Site, RandomState>,
    /// The entries with wildcards inside labels, by the labels behind the last wildcard, so that a host is
    /// compared only with those that share its end; each with its place in the list.
    labels: HashMap<String, Vec<(usize, HostGlob, Site)>, RandomState>,
}

// === impl Network ===

impl Network {
    pub(crate) fn compile(section: &Node, site: Site, path: &str, report: &mut Report) -> Self {
        let mut network = Self { site, ..Self::default() };
        let Some(member) = section.member("allowlist") else { return network };
        let path = member_path(path, "allowlist");
        network.site = Site::new(&path, member.place);
        let mut entries = Vec::new();
        for (index, item) in member.node.items().iter().enumerate() {
            let Some(text) = item.text().filter(|text| !text.trim().is_empty()) else { continue };
            let site = Site::new(&item_path(&path, index), item.place);
            match HostGlob::parse(text) {
                Ok(glob) => entries.push((glob, text, site)),
                Err(error) => {
                    let message = format!("{} can match no host: {error}", quoted(text));
                    let mut warning = Diagnostic::new(
                        DiagnosticCode::UnmatchableHost,
                        &*site.path,
                        item.place,
                        message,
                    );
                    warning.help = error.host.map(|host| format!("write `{host}`"));
                    report.warning(warning);
                }
            }
        }
        warn_of_covered(&entries, report);
        for (index, (glob, _, site)) in entries.into_iter().enumerate() {
            network.insert(index, glob, site);
        }
        network
    }

    /// The entry that admits a host, if one does.
    pub(crate) fn admits(&self, host: &Host) -> Option<&Site> {
        if let Some(site) = self.exact.get(host).or(self.any.as_ref()) {
            return Some(site);
        }
        let Host::Name(name) = host else { return None };
        if !self.below.is_empty() {
            let parents = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
            if let Some(site) = parents.filter_map(|parent| self.below.get(parent)).next() {
                return Some(site);
            }
        }
        if self.labels.is_empty() {
            return None;
        }
        let tails = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        tails
            .chain(["", name])
            .filter_map(|tail| {
                let mut sharing = self.labels.get(tail)?.iter();
                sharing.find(|(_, glob, _)| glob.matches(host))
            })
            .min_by_key(|(index, ..)| *index)
            .map(|(.., site)| site)
    }

    fn insert(&mut self, index: usize, glob: HostGlob, site: Site) {
        match glob {
            HostGlob::Any => {
                self.any.get_or_insert(site);
            }
            HostGlob::Exact(host) => {
                self.exact.entry(host).or_insert(site);
            }
            HostGlob::Below(parent) => {
                self.below.entry(parent).or_insert(site);
            }
            HostGlob::Labels { ref labels, .. } => {
                let tail =
                    labels.iter().rposition(|label| label.contains('*')).map_or(0, |at| at + 1);
                let tail = labels[tail..].join(".");
                self.labels.entry(tail).or_default().push((index, glob, site));
            }
        }
    }
}

/// Comparisons of entries with those that have wildcards inside labels.
const MAX_COMPARED: usize = 1_000_000;

/// Entries by what they match, each as its first place in the list.
#[derive(Default)]
struct Places<'e> {
    any: Option<usize>,
    exact: HashMap<&'e Host, usize, RandomState>,
    below: HashMap<&'e str, usize, RandomState>,
    labels: Vec<usize>,
}

fn warn_of_covered(entries: &[(HostGlob, &str, Site)], report: &mut Report) {
    let mut places = Places::default();
    let most = MAX_COMPARED / entries.len().max(1);
    for (index, (glob, ..)) in entries.iter().enumerate() {
        match glob {
            HostGlob::Any => drop(places.any.get_or_insert(index)),
            HostGlob::Exact(host) => drop(places.exact.entry(host).or_insert(index)),
            HostGlob::Below(parent) => drop(places.below.entry(parent).or_insert(index)),
            HostGlob::Labels { .. } if places.labels.len() < most => {
                places.labels.push(index);
            }
            HostGlob::Labels { .. } => {}
        }
    }
    for (index, (glob, text, site)) in entries.iter().enumerate() {
        if report.warnings_are_full() {
            return;
        }
        let covering = places.covering(entries, index, glob);
        if let Some((_, wide, _)) = covering.and_then(|place| entries.get(place)) {
            let message = format!("{} is already covered by {}", quoted(text), quoted(wide));
            report.warning(
                Diagnostic::new(DiagnosticCode::CoveredEntry, &*site.path, site.place(), message)
                    .with_help("remove one of the two"),
            );
        }
    }
}

// === impl Places ===

impl Places<'_> {
    /// The first other entry that covers `glob`, which stands at `index`; of twins, the later is covered.
    fn covering(
        &self,
        entries: &[(HostGlob, &str, Site)],
        index: usize,
        glob: &HostGlob,
    ) -> Option<usize> {
        let name = match glob {
            HostGlob::Any => None,
            HostGlob::Exact(Host::Name(name)) => Some(name.clone()),
            HostGlob::Exact(Host::Ip(_)) => None,
            HostGlob::Below(parent) => Some(parent.clone()),
            HostGlob::Labels { labels, .. } => Some(labels.join(".")),
        };
        let exact = match glob {
            HostGlob::Exact(host) => self.exact.get(host).copied(),
            _ => None,
        };
        let parents = name.iter().flat_map(|name| {
            let below = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
            std::iter::once(name.as_str()).chain(below).filter_map(|name| self.below.get(name))
        });
        let candidates = self.any.into_iter().chain(exact).chain(parents.copied());
        candidates
            .chain(self.labels.iter().copied())
            .filter(|place| {
                let wide = entries.get(*place).map(|(wide, ..)| wide);
                let is_twin = wide == Some(glob);
                *place != index
                    && (!is_twin || *place < index)
                    && wide.is_some_and(|wide| wide.covers(glob))
            })
            .min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::diagnostic::Place;

    fn entry() -> impl Strategy<Value = String> {
        let label = prop::sample::select(vec!["a", "b", "c-1", "*", "a*", "*b", "c-*", "example"]);
        prop::collection::vec(label, 1..5).prop_map(|labels| labels.join("."))
    }

    fn entries(texts: &[String]) -> Vec<(HostGlob, &str, Site)> {
        let parsed = texts.iter().enumerate().filter_map(|(index, text)| {
            let site = Site::new(&item_path("list", index), Place::START);
            Some((HostGlob::parse(text).ok()?, text.as_str(), site))
        });
        parsed.collect()
    }

    proptest! {
        #[test]
        fn the_entry_that_admits_a_host_is_found_whatever_the_order_of_comparison(
            texts in prop::collection::vec(entry(), 0..12),
            host in prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "c-1", "example"]), 1..5),
        ) {
            let host = Host::parse(&host.join(".")).unwrap();
            let entries = entries(&texts);
            let mut network = Network::default();
            for (index, (glob, _, site)) in entries.iter().cloned().enumerate() {
                network.insert(index, glob, site);
            }
            let matching: Vec<_> = entries.iter().filter(|(glob, ..)| glob.matches(&host)).collect();
            let admitting = network.admits(&host);
            prop_assert_eq!(admitting.is_some(), !matching.is_empty());
            if matching.iter().all(|(glob, ..)| matches!(glob, HostGlob::Labels { .. })) {
                prop_assert_eq!(admitting, matching.first().map(|(.., site)| site));
            }
        }

        #[test]
        fn the_first_entry_that_covers_another_is_the_one_that_is_named(
            texts in prop::collection::vec(entry(), 0..12),
        ) {
            let entries = entries(&texts);
            let mut report = Report::default();
            warn_of_covered(&entries, &mut report);
            let mut expected = Vec::new();
            for (index, (glob, text, _)) in entries.iter().enumerate() {
                let covering = entries.iter().enumerate().find(|(other, (wide, ..))| {
                    *other != index && wide.covers(glob) && (wide != glob || *other < index)
                });
                if let Some((_, (_, wide, _))) = covering {
                    expected.push(format!("{} is already covered by {}", quoted(text), quoted(wide)));
                }
            }
            let found: Vec<_> = report.warnings.into_iter().map(|warning| warning.message).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
