//! The spellings of a model's name: what SDKs, routers and clouds write around the name in a price list.
//!
//! A spelling is only ever looked up whole. What is cut off it is one of a few closed forms, never a tail of
//! free words: `gpt-4o-mini-search` has no spelling `gpt-4o-mini`, and is unknown until the table has it.

use std::borrow::Cow;

/// One way to read a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spelling<'m> {
    /// The name to look up.
    pub(crate) name: Cow<'m, str>,
    /// The router or provider that was written before it: only its own models are meant.
    pub(crate) prefix: Option<&'m str>,
}

/// The longest name that is looked up, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 256;

/// Vendors in the model ids of Amazon Bedrock: `anthropic.claude-…-v1:0`.
const BEDROCK_VENDORS: [&str; 6] =
    ["anthropic.", "meta.", "amazon.", "mistral.", "cohere.", "deepseek."];

/// Areas of Amazon Bedrock's inference profiles: `us.anthropic.claude-…-v1:0`. `global.` is not among them,
/// for it is cheaper than the areas.
const BEDROCK_AREAS: [&str; 9] =
    ["us.", "us-gov.", "eu.", "apac.", "ap.", "jp.", "au.", "ca.", "sa."];

/// The prefix of Anthropic's own models.
const ANTHROPIC: &str = "anthropic";

/// Every reading of a lower-case name, from the most to the least specific. `is_prefix` tells which words
/// before a slash name a provider.
pub(crate) fn spellings<'m>(name: &'m str, is_prefix: &dyn Fn(&str) -> bool) -> Vec<Spelling<'m>> {
    let mut found = Vec::with_capacity(8);
    readings(name, None, &mut found);
    if let Some(id) = resource(name) {
        if name.starts_with("publishers/") {
            // Where a cloud's own price is listed under its router's prefix.
            found.push(Spelling { name: format!("vertex_ai/{id}").into(), prefix: None });
        }
        readings(id, None, &mut found);
    }
    for (slash, _) in name.match_indices('/') {
        let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
        if is_prefix(prefix) {
            readings(rest, Some(prefix), &mut found);
        }
    }
    found
}

/// The id in a path to a model: `models/<id>` (Gemini), `publishers/<who>/models/<id>` (Vertex), or the ARN of
/// a Bedrock foundation model or of one of its own inference profiles.
fn resource(name: &str) -> Option<&str> {
    if let Some(id) = name.strip_prefix("models/") {
        return Some(id);
    }
    if let Some(path) = name.strip_prefix("publishers/") {
        return path.split_once("/models/").map(|(_, id)| id);
    }
    let (_, arn) = name.strip_prefix("arn:aws")?.split_once(":bedrock:")?;
    [":foundation-model/", ":inference-profile/"]
        .iter()
        .find_map(|kind| arn.split_once(kind))
        .map(|(_, id)| id)
}

fn readings<'m>(name: &'m str, prefix: Option<&'m str>, found: &mut Vec<Spelling<'m>>) {
    let mut add = |name: Cow<'m, str>, prefix| {
        let spelling = Spelling { name, prefix };
        if !spelling.name.is_empty() && !found.contains(&spelling) {
            found.push(spelling);
        }
    };
    add(name.into(), prefix);

    if let Some(tuned) = name.strip_prefix("ft:") {
        // `ft:<base>:<organisation>:<suffix>:<id>`: what is fine-tuned is priced apart from its base.
        let base = tuned.split(':').next().unwrap_or(tuned);
        add(name[.."ft:".len() + base.len()].into(), prefix);
        if let Some(undated) = undated(base) {
            add(format!("ft:{undated}").into(), prefix);
        }
        return;
    }

    if let Some((id, is_global)) = bedrock(name) {
        let id = unversioned(id);
        let ids = [Some(id), undated(id)];
        for id in ids.into_iter().flatten().filter(|_| !is_global) {
            add(id.into(), prefix);
        }
        for id in ids.into_iter().flatten() {
            if let Some(id) = id.strip_prefix("anthropic.") {
                add(id.into(), Some(ANTHROPIC));
            }
        }
        return;
    }

    if let Some((id, version)) = name.split_once('@') {
        // Vertex: `<id>@<date>`. A cloud's own price is listed under the name with its `@`.
        if is_compact_date(version) || matches!(version, "default" | "latest") {
            add(name[..=id.len()].into(), prefix);
            add(id.into(), prefix);
        }
        return;
    }

    if let Some(undated) = undated(name) {
        add(undated.into(), prefix);
    }
}

/// A Bedrock model id without the area before it, and whether the area was the whole world.
fn bedrock(name: &str) -> Option<(&str, bool)> {
    let has_vendor = |id: &str| BEDROCK_VENDORS.iter().any(|vendor| id.starts_with(vendor));
    if has_vendor(name) {
        return Some((name, false));
    }
    if let Some(id) = name.strip_prefix("global.") {
        return has_vendor(id).then_some((id, true));
    }
    BEDROCK_AREAS
        .iter()
        .find_map(|area| name.strip_prefix(area))
        .filter(|id| has_vendor(id))
        .map(|id| (id, false))
}

/// A Bedrock model id without its version: `-v1`, `-v1:0`, `-v2:0:200k`.
fn unversioned(id: &str) -> &str {
    let Some((rest, version)) = id.rsplit_once("-v") else { return id };
    let mut parts = version.split(':');
    let is_number = |part: &str| {
        (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let fits = parts.next().is_some_and(is_number)
        && parts.next().is_none_or(is_number)
        && parts.next().is_none_or(|size| size.strip_suffix('k').is_some_and(is_number))
        && parts.next().is_none();
    if fits { rest } else { id }
}

/// A name without the date of its snapshot: `-2024-08-06` or `-20241022`.
fn undated(name: &str) -> Option<&str> {
    let cut = |length: usize, is_date: fn(&str) -> bool| {
        let start = name.len().checked_sub(length)?;
        let (rest, date) = (name.get(..start)?, name.get(start..)?);
        let date = date.strip_prefix('-')?;
        (!rest.is_empty() && is_date(date)).then_some(rest)
    };
    cut("-2024-08-06".len(), is_dashed_date).or_else(|| cut("-20240806".len(), is_compact_date))
}

fn is_dashed_date(date: &str) -> bool {
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next(), parts.next(), parts.next());
    let (Some(year), Some(month), Some(day), None) = (year, month, day, parts.next()) else {
        return false;
    };
    year.len() == 4 && month.len() == 2 && day.len() == 2 && is_date(year, month, day)
}

fn is_compact_date(date: &str) -> bool {
    date.len() == 8 && date.is_ascii() && is_date(&date[..4], &date[4..6], &date[6..])
}

fn is_date(year: &str, month: &str, day: &str) -> bool {
    let number = |part: &str| {
        let digits = part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u32>().ok()).flatten()
    };
    number(year).is_some_and(|year| (2020..2100).contains(&year))
        && number(month).is_some_and(|month| (1..=12).contains(&month))
        && number(day).is_some_and(|day| (1..=31).contains(&day))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str) -> Vec<String> {
        spellings(name, &|prefix| prefix == "openai" || prefix == "bedrock")
            .into_iter()
            .map(|spelling| spelling.name.into_owned())
            .collect()
    }

    #[test]
    fn only_closed_forms_are_cut_off() {
        assert_eq!(names("gpt-4o"), ["gpt-4o"]);
        assert_eq!(names("gpt-4o-2024-08-06"), ["gpt-4o-2024-08-06", "gpt-4o"]);
        assert_eq!(names("openai/gpt-4o"), ["openai/gpt-4o", "gpt-4o"]);
        assert_eq!(names("models/gemini-x"), ["models/gemini-x", "gemini-x"]);
        let vertex = "publishers/google/models/g";
        assert_eq!(names(vertex), [vertex, "vertex_ai/g", "g"]);
        for kept in [
            "gpt-4o-mini-search",
            "gpt-4o-2024-13-06",
            "gpt-4o-2024-08-32",
            "gpt-4o-1999-08-06",
            "gpt-4o-0806",
            "gpt-4o-v2",
            "gpt-4o:extended",
            "elsewhere/gpt-4o",
            "us.gpt-4o",
            "gpt-4o@tuned",
            "gpt-4o-latest",
            "-2024-08-06",
            "@",
            "ft:",
        ] {
            assert_eq!(names(kept), [kept], "{kept}");
        }
    }

    #[test]
    fn cloud_ids_lose_area_version_and_vendor_in_that_order() {
        let name = "us.anthropic.claude-3-5-sonnet-20241022-v2:0";
        assert_eq!(
            names(name),
            [
                name,
                "anthropic.claude-3-5-sonnet-20241022",
                "anthropic.claude-3-5-sonnet",
                "claude-3-5-sonnet-20241022",
                "claude-3-5-sonnet",
            ]
        );
        let name = "global.anthropic.claude-opus-4-5-20251101-v1:0";
        assert_eq!(names(name), [name, "claude-opus-4-5-20251101", "claude-opus-4-5"]);
        for arn in [
            "arn:aws:bedrock:us-east-1::foundation-model/meta.llama3-8b-instruct-v1:0",
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.meta.llama3-8b-instruct-v1:0",
        ] {
            assert!(names(arn).iter().any(|name| name == "meta.llama3-8b-instruct"), "{arn}");
        }
        let opaque = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc";
        assert_eq!(names(opaque), [opaque]);
        let vertex = "claude-opus-4-5@20251101";
        assert_eq!(names(vertex), [vertex, "claude-opus-4-5@", "claude-opus-4-5"]);
    }

    #[test]
    fn a_fine_tuned_model_never_reads_as_its_base() {
        let name = "ft:gpt-4o-mini-2024-07-18:org::id";
        assert_eq!(names(name), [name, "ft:gpt-4o-mini-2024-07-18", "ft:gpt-4o-mini"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_itself_as_its_first_spelling(name in "(ft:|us\\.|anthropic\\.|models/|arn:aws:bedrock:)?\\PC{0,40}") {
            let found = spellings(&name, &|_| true);
            if !name.is_empty() {
                assert_eq!(found[0].name, name);
            }
            assert!(found.len() <= 8 * (1 + name.matches('/').count()) + 8);
        }
    }
}
