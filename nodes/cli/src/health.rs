//! `aasm health`.

use aa_control_plane::rest::health::{Health, UnreachableNode};
use clap::Args;
use serde_json::json;

use crate::{
    api::Api,
    connection::ApiArguments,
    outcome::{Exit, Failure},
    terminal::{Format, Style, Terminal},
};

#[derive(Args, Debug)]
#[command(after_help = "\
Exit codes:
  0  the control plane and its store answer
  1  they do not
  2  bad input: no operator API is named")]
pub(crate) struct Arguments {
    /// For people, or `{"status","version","store","url"}`, and `unreachable` when the status is `partial`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

pub(crate) fn run(arguments: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let url = api.url();
    match api.get(&["health"]).read::<Health>() {
        Ok(health) => {
            let Health { status, version, store, unreachable } = &health;
            match arguments.format {
                Format::Json => {
                    let mut told =
                        json!({"status": status, "version": version, "store": store, "url": url});
                    if !unreachable.is_empty() {
                        told["unreachable"] = json!(unreachable);
                    }
                    terminal.json_line(&told)?;
                }
                Format::Text => {
                    let style = if unreachable.is_empty() { Style::Good } else { Style::Warning };
                    let status = terminal.paint(style, status);
                    terminal.line(format_args!("{status}: version {version} at {url}"))?;
                    for UnreachableNode { node, shards, why } in unreachable {
                        terminal.line(format_args!(
                            "  does not reach node {node}, which has {shards} shards: {why}"
                        ))?;
                    }
                }
            }
            Ok(Exit::Done)
        }
        Err(error) => {
            if arguments.format == Format::Json {
                terminal.json_line(
                    &json!({"status": "unavailable", "url": url, "problem": error.to_string()}),
                )?;
            }
            Err(error.into())
        }
    }
}
