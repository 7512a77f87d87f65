//! Tokens as providers report them, added up to totals that include their parts.

use aa_protocol::Usage;

use crate::json::tree::Node;

/// OpenAI's `usage`, of all its APIs, and of those who imitate it.
pub(crate) fn openai(usage: &Node<'_>) -> Option<Usage> {
    let input = usage.count("prompt_tokens").or_else(|| usage.count("input_tokens"));
    let output = usage.count("completion_tokens").or_else(|| usage.count("output_tokens"));
    if input.is_none() && output.is_none() {
        return None;
    }
    let (input, mut output) = (input.unwrap_or(0), output.unwrap_or(0));
    let part = |groups: [&str; 2], name| {
        groups.iter().find_map(|group| usage.get(group)?.count(name)).unwrap_or(0)
    };
    let read = ["prompt_tokens_details", "input_tokens_details"];
    let written = ["completion_tokens_details", "output_tokens_details"];
    let reasoning = part(written, "reasoning_tokens");
    // xAI counts reasoning beside the answer, Google's imitation counts it only in the total.
    let total = usage.count("total_tokens").unwrap_or(0);
    output = output.max(total.saturating_sub(input));
    let cached = match part(read, "cached_tokens") {
        // DeepSeek's name for it.
        0 => usage.count("prompt_cache_hit_tokens").unwrap_or(0),
        cached => cached,
    };
    Some(Usage {
        input_tokens: input,
        output_tokens: output,
        cached_input_tokens: cached,
        cache_write_tokens: part(read, "cache_write_tokens"),
        reasoning_tokens: reasoning,
    })
}
