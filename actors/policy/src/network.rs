//! `network`: the outbound allowlist, compiled so that a long list costs no more than a short one.

use std::collections::HashMap;

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
    exact: HashMap<Host, Site>,
    below: HashMap<String, Site>,
    labels: Vec<(HostGlob, Site)>,
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
        for (glob, _, site) in entries {
            network.insert(glob, site);
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
        self.labels.iter().find(|(glob, _)| glob.matches(host)).map(|(_, site)| site)
    }

    fn insert(&mut self, glob: HostGlob, site: Site) {
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
            labels @ HostGlob::Labels { .. } => self.labels.push((labels, site)),
        }
    }
}

/// The most entries that are compared with each other; the comparison is quadratic.
const MAX_COMPARED: usize = 1_000;

fn warn_of_covered(entries: &[(HostGlob, &str, Site)], report: &mut Report) {
    let entries = &entries[..entries.len().min(MAX_COMPARED)];
    for (index, (glob, text, site)) in entries.iter().enumerate() {
        let covering = entries.iter().enumerate().find(|(other, (wide, ..))| {
            let twin = wide == glob;
            *other != index && wide.covers(glob) && (!twin || *other < index)
        });
        if let Some((_, (_, wide, _))) = covering {
            let message = format!("{} is already covered by {}", quoted(text), quoted(wide));
            report.warning(
                Diagnostic::new(DiagnosticCode::CoveredEntry, &*site.path, site.place(), message)
                    .with_help("remove one of the two"),
            );
        }
    }
}
