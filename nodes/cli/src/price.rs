//! `aasm price`: what models cost in the workspace.

use aa_control_plane::rest::prices::{
    Price, PriceBook, PriceOverride, PriceSource, PricedModel, SetPricesRequest, UnknownModel,
};
use aa_pricing::{Family, Rate};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde::de::{Deserialize, IntoDeserializer, value::Error};

use crate::{
    api::{Api, ApiError},
    connection::ApiArguments,
    outcome::{Exit, Failure},
    policy::remote_help,
    table::{Columns, Text},
    terminal::{Format, Style, Terminal, printable},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List prices, the workspace's own first
    List(ListArguments),
    /// Show the price that holds for a model, and where it is from
    #[command(visible_alias = "get")]
    Show(ShowArguments),
    /// Set the workspace's own price of a model
    Set(SetArguments),
    /// Take the workspace's own price of a model away
    Remove(RemoveArguments),
    /// Choose what becomes of calls of models without a price, where a budget applies
    #[command(subcommand)]
    Unknown(UnknownCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum UnknownCommand {
    /// They are refused
    Deny(DenyArguments),
    /// They cost what is stated here
    Fallback(FallbackArguments),
}

#[derive(Args, Debug)]
#[command(after_help = remote_help("aasm price list --search gpt-4o"))]
pub(crate) struct ListArguments {
    /// Only providers and models whose names hold this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    search: String,
    /// For people, or `{"date","source","sha256","overrides","unknown","models",…}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help("aasm price show gpt-4o-2024-08-06"))]
pub(crate) struct ShowArguments {
    /// The model, named as calls name it
    model: String,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

/// US dollars per million tokens.
#[derive(Args, Debug)]
#[command(next_help_heading = "Price, in US dollars per million tokens")]
struct Stated {
    /// Of the prompt
    #[arg(long, value_name = "USD")]
    input: Rate,
    /// Of the answer, reasoning included
    #[arg(long, value_name = "USD")]
    output: Rate,
    /// Of prompt tokens read from a cache; the input's without it
    #[arg(long, value_name = "USD")]
    cached_input: Option<Rate>,
    /// Of prompt tokens written to a cache; the input's without it
    #[arg(long, value_name = "USD")]
    cache_write: Option<Rate>,
    /// The most tokens a prompt can have
    #[arg(long, value_name = "N")]
    context_window: Option<u64>,
    /// The most tokens an answer can have
    #[arg(long, value_name = "N")]
    max_output_tokens: Option<u64>,
    /// The most tokens one image of a prompt can count as
    #[arg(long, value_name = "N")]
    image_tokens: Option<u64>,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help(
    "aasm price set my-model --input 2.5 --output 10 --cached-input 1.25\n  \
     aasm price set 'gpt-4o-*' --input 2 --output 8"
))]
pub(crate) struct SetArguments {
    /// The model in any case; `gpt-4o-*` is every model whose name starts so
    model: String,
    /// Whose tokenizer it follows, for a name that does not tell: openai, openai_cl100k, anthropic, google, mistral,
    /// llama, deepseek, xai, cohere, other
    #[arg(long, value_parser = parse_family)]
    family: Option<Family>,
    /// For people, or the prices as they are in force
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    stated: Stated,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help("aasm price remove my-model"))]
pub(crate) struct RemoveArguments {
    /// The model, named as its price was set
    model: String,
    /// For people, or the prices as they are in force
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help("aasm price unknown deny"))]
pub(crate) struct DenyArguments {
    /// For people, or the prices as they are in force
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help("aasm price unknown fallback --input 30 --output 120"))]
pub(crate) struct FallbackArguments {
    /// For people, or the prices as they are in force
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    stated: Stated,
    #[command(flatten)]
    api: ApiArguments,
}

pub(crate) fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::List(arguments) => list(&arguments, terminal),
        Command::Show(arguments) => show(&arguments, terminal),
        Command::Set(arguments) => set(arguments, terminal),
        Command::Remove(arguments) => remove(&arguments, terminal),
        Command::Unknown(UnknownCommand::Deny(DenyArguments { format, api })) => {
            choose(UnknownModel::Deny, format, &api, terminal)
        }
        Command::Unknown(UnknownCommand::Fallback(arguments)) => {
            let FallbackArguments { stated, format, api } = arguments;
            choose(UnknownModel::Fallback(stated.into()), format, &api, terminal)
        }
    }
}

fn list(arguments: &ListArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let request = api.get(&["prices"]).query("search", Some(&arguments.search));
    let mut book: PriceBook = request.read()?;
    let text = arguments.search.to_lowercase();
    book.overrides.retain(|stated| stated.model.to_lowercase().contains(&text));
    if arguments.format == Format::Json {
        terminal.json(&book)?;
        return Ok(Exit::Done);
    }
    let mut columns = Columns::new(
        &["MODEL", "PROVIDER", "INPUT", "CACHED", "CACHE WRITE", "OUTPUT", "FROM"],
        terminal.colour(),
    );
    let mut models = book.models.take().unwrap_or_default();
    models.retain(|listed| !book.overrides.iter().any(|own| is_same(&own.model, &listed.model)));
    let own = std::mem::take(&mut book.overrides).into_iter().map(|own| PricedModel {
        model: own.model,
        provider: None,
        from: PriceSource::Override,
        price: own.price,
    });
    let rows: Vec<_> = own.chain(models).collect();
    if rows.is_empty() {
        terminal.note(format_args!("no price is listed for `{}`", printable(&arguments.search)));
        return Ok(Exit::Done);
    }
    for PricedModel { model, provider, from, price } in rows {
        let style = if from == PriceSource::Override { Style::Warning } else { Style::Quiet };
        let rate = |rate: Option<Rate>| rate.map(|rate| rate.to_string()).unwrap_or_default();
        columns.row([
            Text::styled(model, Style::Strong),
            provider.unwrap_or_default().into(),
            price.input.to_string().into(),
            rate(price.cached_input).into(),
            rate(price.cache_write).into(),
            price.output.to_string().into(),
            Text::styled(from.as_str(), style),
        ]);
    }
    columns.print(terminal)?;
    let unknown = describe_choice(&book.unknown);
    terminal.note(format_args!(
        "in US dollars per million tokens; the table is of {}; {unknown}",
        printable(&book.date)
    ));
    Ok(Exit::Done)
}

fn show(arguments: &ShowArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let book = read(&api, Some(&arguments.model))?;
    if arguments.format == Format::Json {
        terminal.json(&book)?;
        return Ok(Exit::Done);
    }
    let Some(PricedModel { model, from, price, .. }) = &book.model else {
        return Err(Failure::refused("the control plane did not say what the model costs"));
    };
    let from = match from {
        PriceSource::Table => format!("the table of {}", printable(&book.date)),
        PriceSource::Override => "the workspace's own price".to_owned(),
        PriceSource::Fallback => "the workspace's price for unknown models".to_owned(),
    };
    let per_million = |rate: Rate| format!("${rate} per million tokens");
    let limit = |most: Option<u64>| most.map(|most| format!("{most} tokens"));
    let facts = [
        ("model", Some(printable(model).into_owned())),
        ("input", Some(per_million(price.input))),
        ("cached input", price.cached_input.map(per_million)),
        ("cache write", price.cache_write.map(per_million)),
        ("output", Some(per_million(price.output))),
        ("context", limit(price.context_window)),
        ("most output", limit(price.max_output_tokens)),
        ("per image", limit(price.image_tokens)),
        ("from", Some(from)),
    ];
    for (name, value) in facts {
        if let Some(value) = value {
            terminal.line(format_args!("{name:<12} {value}"))?;
        }
    }
    Ok(Exit::Done)
}

fn set(arguments: SetArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let SetArguments { model, family, stated, format, api } = arguments;
    let new = PriceOverride { model, price: stated.into(), family };
    let (name, now) = (printable(&new.model).into_owned(), describe(&new.price));
    change(&Api::open(&api)?, format, terminal, |terms| {
        match terms.overrides.iter_mut().find(|own| is_same(&own.model, &new.model)) {
            Some(own) if *own == new => Ok(format!("unchanged: {name} costs {now}")),
            Some(own) => {
                let was = std::mem::replace(own, new);
                Ok(format!("set the price of {name}: {now}; it was {}", describe(&was.price)))
            }
            None => {
                terms.overrides.push(new);
                Ok(format!("set the price of {name}: {now}; the workspace had none of its own"))
            }
        }
    })
}

fn remove(arguments: &RemoveArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let RemoveArguments { model, format, api } = arguments;
    let api = Api::open(api)?;
    let name = printable(model);
    change(&api, *format, terminal, |terms| {
        let place = terms.overrides.iter().position(|own| is_same(&own.model, model));
        let Some(place) = place else {
            return Err(Failure::refused(format_args!(
                "the workspace has no price of its own for `{name}`; `aasm price list` shows all"
            )));
        };
        let was = terms.overrides.remove(place);
        Ok(format!("removed the price of {name}; it was {}", describe(&was.price)))
    })?;
    if *format == Format::Text && !model.ends_with('*') {
        tell_what_holds(&api, model, terminal)?;
    }
    Ok(Exit::Done)
}

/// Tells what a model costs whose own price is gone.
fn tell_what_holds(api: &Api, model: &str, terminal: &mut Terminal) -> Result<(), Failure> {
    match api.get(&["prices"]).query("model", Some(model)).read::<PriceBook>() {
        Ok(PriceBook { model: Some(now), .. }) => {
            let (price, from) = (describe(&now.price), now.from.as_str());
            terminal.note(format_args!("it costs {price} now ({from})"));
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(ApiError::Problem(problem)) if problem.status == 404 => {
            terminal.note("it has no price now: where a budget applies, its calls are refused");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn choose(
    choice: UnknownModel,
    format: Format,
    api: &ApiArguments,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    change(&Api::open(api)?, format, terminal, |terms| {
        let now = describe_choice(&choice);
        if choice == terms.unknown {
            return Ok(format!("unchanged: {now}"));
        }
        let was = std::mem::replace(&mut terms.unknown, choice);
        Ok(format!("{now}; before, {}", describe_choice(&was)))
    })
}

/// Sets the prices as `edit` leaves them, unless that is as they were, and tells what it says.
fn change(
    api: &Api,
    format: Format,
    terminal: &mut Terminal,
    edit: impl FnOnce(&mut SetPricesRequest) -> Result<String, Failure>,
) -> Result<Exit, Failure> {
    let mut book = read(api, None)?;
    let before =
        SetPricesRequest { overrides: book.overrides.clone(), unknown: book.unknown.clone() };
    let mut terms = before.clone();
    let message = edit(&mut terms)?;
    if terms != before {
        book = api.request(Method::PUT, &["prices"]).json(&terms)?.read()?;
    }
    match format {
        Format::Json => terminal.json(&book)?,
        Format::Text => terminal.line(message)?,
    }
    Ok(Exit::Done)
}

fn read(api: &Api, model: Option<&str>) -> Result<PriceBook, Failure> {
    Ok(api.get(&["prices"]).query("model", model).read()?)
}

/// Whether two names are one: the API reads them in any case.
fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// `$2.5 in, $10 out per million tokens`.
fn describe(price: &Price) -> String {
    let rates = [
        ("in", Some(price.input)),
        ("cached in", price.cached_input),
        ("written to the cache", price.cache_write),
        ("out", Some(price.output)),
    ];
    let stated = rates.into_iter().filter_map(|(name, rate)| Some(format!("${} {name}", rate?)));
    format!("{} per million tokens", stated.collect::<Vec<_>>().join(", "))
}

fn describe_choice(choice: &UnknownModel) -> String {
    match choice {
        UnknownModel::Deny => {
            "calls of unknown models are refused where a budget applies".to_owned()
        }
        UnknownModel::Fallback(price) => format!("unknown models cost {}", describe(price)),
    }
}

fn parse_family(name: &str) -> Result<Family, String> {
    Family::deserialize(name.into_deserializer()).map_err(|error: Error| error.to_string())
}

// === impl Stated ===

impl From<Stated> for Price {
    fn from(stated: Stated) -> Self {
        let Stated {
            input,
            output,
            cached_input,
            cache_write,
            context_window,
            max_output_tokens,
            image_tokens,
        } = stated;
        Self {
            input,
            cached_input,
            cache_write,
            output,
            context_window,
            max_output_tokens,
            image_tokens,
        }
    }
}
