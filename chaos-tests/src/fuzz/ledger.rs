//! The ledger's forms: lines of the log, notes and keys. Each is refused, or it reads back.

use std::str::FromStr;

use aa_ledger::{
    Checkpoint, Entry, Hash, Keys, LogKey, Stream, VerifierKey, cef::write_cef, verify_inclusion,
};

const SEED: [u8; 32] = [7; 32];

/// Reads the bytes as every form, whole and line by line.
///
/// # Panics
/// When what was accepted has a second form, or breaks the lines of another format.
pub fn target(data: &[u8]) {
    entry(data);
    for line in data.split(|byte| *byte == b'\n').take(8) {
        entry(line);
        if let Ok(text) = std::str::from_utf8(line) {
            words(text);
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        note(text);
        let _ = Keys::parse(text);
    }
    proof(data);
}

fn entry(line: &[u8]) {
    let parsed = Entry::parse(line);
    let mut cef = b"before\n".to_vec();
    let written = write_cef(line, "1.0|\\\n", &mut cef);
    assert_eq!(parsed.is_ok(), written.is_ok(), "an entry, and only an entry, has a CEF line");
    if written.is_ok() {
        let cef = std::str::from_utf8(&cef).expect("CEF is text");
        assert_eq!(cef.lines().count(), 2, "one entry is one line: {cef}");
        assert!(!cef["before\n".len()..].contains('\r') && cef.ends_with('\n'));
        header(cef);
    }
    if let Ok(entry) = parsed {
        let _ = entry.decision();
        same_text(&entry.stream);
        same_text(&entry.id);
    }
}

/// The seven fields before the extension are parted by `|` that are not escaped.
fn header(cef: &str) {
    let mut fields = 1;
    let mut escaped = false;
    for c in cef.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '|' => fields += 1,
            _ => {}
        }
    }
    assert!(fields >= 8, "{cef}");
}

fn words(text: &str) {
    if let Ok(stream) = text.parse::<Stream>() {
        assert_eq!(stream.to_string(), text, "a stream has one form");
    }
    if let Ok(hash) = text.parse::<Hash>() {
        assert_eq!(hash.to_string(), text, "a hash has one form");
    }
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string(), text, "a verifier key has one form");
    }
}

fn note(text: &str) {
    let key = LogKey::new("agent-assembly/log", &SEED).expect("the name is a name");
    // The first line of a text is signed by others, or the whole text by the key itself.
    if let Ok(inner) = key.verifier().open(text) {
        assert!(text.starts_with(inner), "what was opened is what stands there");
    }
    let signed = key.sign(text);
    if text.ends_with('\n') {
        assert_eq!(key.verifier().open(&signed), Ok(text), "what was signed opens");
    }
    if let Ok(checkpoint) = Checkpoint::open(&signed, key.verifier()) {
        assert_eq!(checkpoint.text(), text, "a checkpoint has one form");
    }
}

/// No proof of random hashes proves anything.
fn proof(data: &[u8]) {
    let (hashes, rest) = data.as_chunks::<32>();
    let hashes: Vec<_> = hashes.iter().copied().map(Hash::from_bytes).collect();
    let number = |at: usize| u64::from(rest.get(at).copied().unwrap_or(0));
    let Some((root, proof)) = hashes.split_first() else { return };
    let leaf = Hash::of_leaf(data);
    let proven = verify_inclusion(&leaf, number(0), number(1), root, proof);
    assert!(proven.is_err(), "random hashes prove inclusion");
}

fn same_text<T: FromStr + ToString + PartialEq>(value: &T) {
    let again = value.to_string().parse::<T>();
    assert!(again.is_ok_and(|again| again == *value), "{} reads back", value.to_string());
}
