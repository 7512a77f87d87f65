//! How many tokens a prompt has, before anybody counted: an upper bound, for a reservation.
//!
//! Strings and keys are counted with the tokenizer of OpenAI's current models (`o200k_base`), with an
//! allowance for what a provider wraps around them, and scaled for other providers by a factor of
//! [`Family`]. A token is at least a byte of text, so that the count of bytes caps the text; a model's context
//! window caps the whole. Three things are bounded rather than counted:
//!
//! - **Text past [`MAX_TOKENIZED_BYTES`]** counts a token per byte, so that a huge prompt costs no huge time.
//! - **An image** in the content of a message counts as the most any image can ([`ModelPrice::image_tokens`],
//!   else the family's worst case), its base64 data as nothing beside. The same data in a place where the
//!   provider would read it as text counts as text.
//! - **A document, audio, video or stored file** counts as the whole context window: its pages cannot be told.
//!
//! What no prompt shows cannot be bounded: the results of tools that the provider itself runs, a stored
//! conversation that is continued by its id, a prompt template. The provider's own count settles those.
//!
//! # The tokenizer
//!
//! `bpe-openai` 0.3 (GitHub, MIT, released October 2026) was chosen over `tiktoken-rs` 0.12 (MIT, maintained as
//! well). Both count alike. Measured on two shared cores, 256 KiB each:
//!
//! | | `bpe-openai` | `tiktoken-rs` |
//! |---|---|---|
//! | English prose, Rust code | 21–32 MB/s | 6–8 MB/s |
//! | one long run of spaces, `!` or `a` | 80–105 MB/s | 0.3–1.1 MB/s |
//! | random letters, base64 | 1.9–3.6 MB/s | 0.7–1.2 MB/s |
//! | first use | 0.18 s, 67 MB | 0.56 s, 47 MB |
//! | in the program | 32 MB | 6 MB |
//!
//! A prompt is written by whom it is to bound, so the worst case decides: 0.15 s for the dearest prompt
//! against 0.8 s. Its price is the size of the dictionary, which is why only `o200k_base` is linked and older
//! OpenAI models (`cl100k_base`) count by a factor. Counting blocks: do it outside an actor when the prompt is
//! more than some kilobytes, and call [`warm_up`] before the first.
//!
//! [`ModelPrice::image_tokens`]: crate::ModelPrice::image_tokens

mod prompt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::prompt::Tally;
use crate::table::Priced;

/// Whose tokenizer and image rules a model follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// OpenAI since GPT-4o: counted as it counts.
    #[serde(rename = "openai")]
    OpenAi,
    /// OpenAI before GPT-4o, and its embeddings.
    #[serde(rename = "openai_cl100k")]
    OpenAiCl100k,
    /// Anthropic.
    Anthropic,
    /// Google Gemini.
    Google,
    /// Mistral.
    Mistral,
    /// Meta Llama.
    Llama,
    /// DeepSeek.
    #[serde(rename = "deepseek")]
    DeepSeek,
    /// xAI.
    Xai,
    /// Cohere.
    Cohere,
    /// Anything else: the most careful of all.
    Other,
}

/// How a family's tokens are bounded.
struct Margins {
    /// Hundredths of the tokens of `o200k_base`.
    percent: u64,
    /// Tokens added for each character that is not ASCII: smaller vocabularies fall back to bytes there.
    per_foreign_char: u64,
    /// Bytes that a token has at most on average, so that a run that `o200k_base` joins into few tokens is not
    /// taken for few everywhere; 0 for no such bound.
    bytes_per_token: u64,
    /// The most tokens of an image.
    image: u64,
    /// Tokens of the instructions a provider adds once tools are offered.
    tools: u64,
}

/// The most text, in bytes, that is run through the tokenizer; the text of a longer prompt counts a token per
/// byte.
pub const MAX_TOKENIZED_BYTES: usize = 256 * 1024;

/// The context window a model is taken to have when its price states none.
pub const DEFAULT_CONTEXT_WINDOW: u64 = 1_000_000;

/// At most this many tokens does a prompt have: `prompt` is the messages, or the request around them
/// (`messages`, `system`, `contents`, `input`, `tools` …), in the form of OpenAI, Anthropic, Google or Bedrock.
pub fn input_tokens(prompt: &Value, model: &Priced<'_>) -> u64 {
    let tally = Tally::of_prompt(prompt);
    let margins = model.family.margins();
    let window = model.price.context_window;
    let media = match tally.documents {
        0 => tally.images.saturating_mul(model.price.image_tokens.unwrap_or(margins.image)),
        _ => {
            window.unwrap_or(DEFAULT_CONTEXT_WINDOW).max(tally.images.saturating_mul(margins.image))
        }
    };
    let tools = if tally.tools > 0 { margins.tools } else { 0 };
    let tokens = text_tokens(&tally, &margins)
        .saturating_add(tally.overhead)
        .saturating_add(tools)
        .saturating_add(media);
    // An embedding call carries many inputs, each of which may fill the window.
    let is_embedding = model.price.max_output_tokens == Some(0);
    match window {
        Some(window) if !is_embedding => tokens.min(window),
        _ => tokens,
    }
}

/// At most this many tokens does an answer have, as far as it was received: for a stream that was cut off
/// before its provider reported a count. Hidden reasoning is not in it.
pub fn output_tokens(answer: &Value, model: &Priced<'_>) -> u64 {
    let tally = Tally::of_text(answer);
    text_tokens(&tally, &model.family.margins()).saturating_add(tally.overhead)
}

/// Reads the tokenizer's dictionary, which otherwise the first count does: about 0.2 s and 67 MB.
pub fn warm_up() {
    let _ = bpe_openai::o200k_base();
}

fn text_tokens(tally: &Tally<'_>, margins: &Margins) -> u64 {
    let bytes = tally.bytes as u64;
    if tally.bytes > MAX_TOKENIZED_BYTES {
        return bytes;
    }
    let tokenizer = bpe_openai::o200k_base();
    let counted: u64 = tally.texts.iter().map(|text| tokenizer.count(*text) as u64).sum();
    let foreign: u64 = match margins.per_foreign_char {
        0 => 0,
        each => {
            let chars = tally.texts.iter().flat_map(|text| text.chars());
            each * chars.filter(|char| !char.is_ascii()).count() as u64
        }
    };
    let scaled = (counted * margins.percent).div_ceil(100) + foreign;
    let least = bytes.checked_div(margins.bytes_per_token).unwrap_or(0);
    scaled.max(least).min(bytes)
}

// === impl Family ===

impl Family {
    /// The margins: images by what providers publish, text with room over the differences that are reported
    /// between tokenizers. They are chosen, not measured; a call that passes them is settled at its own count.
    const fn margins(self) -> Margins {
        let (percent, per_foreign_char, bytes_per_token, image, tools) = match self {
            // An image of gpt-4o-mini: 2,833 and 8 tiles of 5,667.
            Self::OpenAi => (100, 0, 0, 48_169, 32),
            Self::OpenAiCl100k => (110, 1, 4, 1_445, 32),
            // Since Opus 4.7 twice as many where words are short, and images of 3.75 megapixels.
            Self::Anthropic => (250, 1, 2, 4_784, 1_000),
            // 16 tiles of 258.
            Self::Google => (150, 1, 3, 4_128, 1_000),
            // 64 × 64 patches and a break for each row.
            Self::Mistral => (200, 1, 3, 4_160, 1_000),
            // 4 tiles of 1,601.
            Self::Llama => (150, 1, 3, 6_404, 1_000),
            Self::DeepSeek => (150, 1, 3, 4_784, 1_000),
            // 7 tiles of 256.
            Self::Xai => (150, 1, 3, 1_792, 1_000),
            // 13 tiles of 256.
            Self::Cohere => (150, 1, 3, 3_328, 1_000),
            Self::Other => (250, 2, 2, 48_169, 1_000),
        };
        Margins { percent, per_foreign_char, bytes_per_token, image, tools }
    }
}
