//! Host globs, label by label.

/// The one name outside ASCII that is generated, and what IDNA makes of it.
const UNICODE_LABEL: (&str, &str) = ("bücher", "xn--bcher-kva");

pub(super) fn matches(glob: &str, host: &str) -> bool {
    let (glob, host) = (normal(glob), normal(host));
    if glob == "*" {
        return true;
    }
    if is_address(&host) {
        return glob == host;
    }
    let globs: Vec<&str> = glob.split('.').collect();
    let labels: Vec<&str> = host.split('.').collect();
    if let Some((&"*", below)) = globs.split_first() {
        // Any depth below, so at least one label more.
        let Some(depth) = labels.len().checked_sub(below.len()) else { return false };
        return depth >= 1 && all_match(below, &labels[depth..]);
    }
    all_match(&globs, &labels)
}

fn all_match(globs: &[&str], labels: &[&str]) -> bool {
    if globs.len() != labels.len() {
        return false;
    }
    for (glob, label) in globs.iter().zip(labels) {
        if !label_matches(glob.as_bytes(), label.as_bytes()) {
            return false;
        }
    }
    true
}

/// `*` stands for any number of characters of the label.
fn label_matches(glob: &[u8], label: &[u8]) -> bool {
    match (glob.split_first(), label.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), None) => label_matches(rest, label),
        (Some((b'*', rest)), Some((_, shorter))) => {
            label_matches(rest, label) || label_matches(glob, shorter)
        }
        (Some((a, rest)), Some((b, shorter))) => a == b && label_matches(rest, shorter),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn normal(text: &str) -> String {
    let lower = text.to_lowercase();
    let (unicode, ascii) = UNICODE_LABEL;
    lower.strip_suffix('.').unwrap_or(&lower).replace(unicode, ascii)
}

fn is_address(host: &str) -> bool {
    host.contains(':') || host.split('.').all(|label| label.parse::<u8>().is_ok())
}
