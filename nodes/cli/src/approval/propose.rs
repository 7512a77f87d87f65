//! `aasm approval propose`: the policy that asked, narrowed by one call.

use std::path::PathBuf;

use aa_control_plane::rest::{
    approvals::{ProposalList, RuleProposal},
    policies::AppliedPolicy,
};
use clap::Args;
use serde::Serialize;

use super::resolve;
use crate::{
    api::Api,
    connection::ApiArguments,
    outcome::{Exit, Failure},
    terminal::{Format, Style, Terminal, printable},
};

#[derive(Args, Debug)]
#[command(after_help = "\
The condition that asked is narrowed so that calls of exactly these arguments pass it; nothing else of the \
document changes, comments included. Without --apply nothing is in force by this.

Examples:
  aasm approval propose 3fa91c2b
  aasm approval propose 3fa91c2b --out .        # to edit, review and `aasm policy apply`
  aasm approval propose 3fa91c2b --apply

Exit codes:
  0  proposed, written or applied as asked
  1  no rule can be proposed, or the control plane refused or cannot be reached
  2  bad input: wrong usage, or a file that cannot be written")]
pub(crate) struct Arguments {
    /// The request's id, or how it begins: 4 characters or more
    id: String,
    /// Write the documents into this directory, each as POLICY.yaml; files that are there are left alone
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Put them in force
    #[arg(long)]
    apply: bool,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Serialize)]
struct Proposed {
    #[serde(flatten)]
    list: ProposalList,
    applied: Vec<AppliedPolicy>,
}

pub(crate) fn run(arguments: &Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let id = resolve(&api, &arguments.id)?;
    let list: ProposalList = api.get(&["approvals", &id, "proposals"]).read()?;
    if arguments.format == Format::Text {
        for proposal in &list.proposals {
            show(proposal, terminal)?;
        }
    }
    if let Some(directory) = &arguments.out {
        for proposal in &list.proposals {
            let path = directory.join(format!("{}.yaml", proposal.policy));
            let shown = path.display();
            let written = std::fs::File::create_new(&path).and_then(|mut file| {
                std::io::Write::write_all(&mut file, proposal.document.as_bytes())
            });
            written.map_err(|error| {
                Failure::bad_input(format_args!("cannot write {shown}: {error}"))
            })?;
            if arguments.format == Format::Text {
                terminal.line(format_args!("written to {shown}"))?;
            }
        }
    }
    let mut applied = Vec::new();
    if arguments.apply {
        for proposal in &list.proposals {
            let request = api.post(&["policies"]).query("name", Some(&proposal.policy));
            let answer: AppliedPolicy =
                request.document(proposal.document.clone().into_bytes()).read()?;
            if arguments.format == Format::Text {
                let (name, revision) = (printable(&answer.name), answer.revision.revision);
                terminal.line(format_args!("in force: {name}, revision {revision}"))?;
            }
            applied.push(answer);
        }
    } else if arguments.format == Format::Text && arguments.out.is_none() {
        terminal.note("nothing is in force by this: --apply applies it, --out DIR writes it");
    }
    if arguments.format == Format::Json {
        terminal.json(&Proposed { list, applied })?;
    }
    Ok(Exit::Done)
}

fn show(proposal: &RuleProposal, terminal: &mut Terminal) -> Result<(), Failure> {
    let RuleProposal { policy, revision, path, line, before, after, .. } = proposal;
    let place = format!("policy {policy}, revision {revision}, line {line}, {path}");
    terminal.line(printable(&place))?;
    for (sign, style, text) in [("-", Style::Bad, before), ("+", Style::Good, after)] {
        let text = format!("{sign} {}", printable(text.trim()));
        let text = terminal.paint(style, &text).into_owned();
        terminal.line(text)?;
    }
    Ok(())
}
