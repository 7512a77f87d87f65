//! RE2 syntax, compiled for `regex-automata`.
//!
//! The two dialects share most of their syntax and differ in corners that would make a pattern mean
//! something else without a word: `\d`, `\w`, `\s` and `\b` are ASCII in RE2, `[[a]` is a class in RE2 and a
//! nested one here, `&&` inside a class is literal in RE2. So a pattern is translated token by token, and
//! what RE2 does not have is an error at its place. Source: RE2's `doc/syntax.txt`.

use regex_automata::{meta, util::syntax};
use regex_syntax::hir::Hir;

/// A pattern in all its forms.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    pub(crate) regex: meta::Regex,
    /// In the dialect of `regex-automata`.
    pub(crate) translated: String,
    pub(crate) hir: Hir,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct PatternError {
    /// A sentence that says it.
    pub problem: String,
    /// Characters before the place of the problem.
    pub offset: usize,
    /// Whether the pattern passes a bound, rather than being none at all.
    pub too_large: bool,
}

/// The longest pattern, in characters.
const MAX_PATTERN: usize = 4_096;
/// RE2's own bound on `x{n}`.
const MAX_REPEAT: u32 = 1_000;
const MAX_NESTING: u32 = 100;
/// Bytes of compiled form: of one pattern, of one automaton for several, and of all that a document's
/// patterns are compiled to.
const MAX_COMPILED: usize = 1 << 20;
const MAX_COMPILED_TOGETHER: usize = 16 << 20;
pub(crate) const MAX_COMPILED_ALL: usize = 64 << 20;
/// Bytes of automaton states that are kept between searches: of all patterns together, and of one.
const CACHE: usize = 4 << 20;
const CACHE_OF_ONE: usize = 1 << 20;

struct Translator {
    source: Vec<char>,
    at: usize,
    out: String,
    /// For each character of `out`, the place in `source` it came from.
    origin: Vec<usize>,
}

fn config(compiled: usize) -> meta::Config {
    meta::Config::new()
        .nfa_size_limit(Some(compiled))
        .hybrid_cache_capacity(CACHE)
        .dfa(false)
        .onepass(false)
        .utf8_empty(true)
}

fn syntax_config() -> syntax::Config {
    syntax::Config::new().nest_limit(MAX_NESTING)
}

/// Compiles one pattern.
pub(crate) fn compile(pattern: &str) -> Result<Compiled, PatternError> {
    let translator = translate(pattern)?;
    let hir = syntax::parse_with(&translator.out, &syntax_config())
        .map_err(|error| translator.restate(&error))?;
    let regex = meta::Builder::new()
        .configure(config(MAX_COMPILED).hybrid_cache_capacity(CACHE_OF_ONE))
        .build_from_hir(&hir)
        .map_err(|error| PatternError {
            too_large: error.size_limit().is_some(),
            problem: match error.size_limit() {
                Some(_) => "the compiled pattern passes the bound of 1 MiB".to_owned(),
                None => error.to_string(),
            },
            offset: 0,
        })?;
    Ok(Compiled { regex, translated: translator.out, hir })
}

/// Compiles translated patterns to one automaton that tells whether any of them matches.
pub(crate) fn compile_together(translated: &[String]) -> Result<meta::Regex, PatternError> {
    meta::Builder::new()
        .configure(config(MAX_COMPILED_TOGETHER))
        .syntax(syntax_config())
        .build_many(translated)
        .map_err(|_| PatternError {
            problem: "the patterns together pass the bound of 16 MiB compiled".to_owned(),
            offset: 0,
            too_large: true,
        })
}

/// What is said of patterns whose compiled forms add up to more than [`MAX_COMPILED_ALL`].
pub(crate) fn too_large_together() -> PatternError {
    PatternError {
        problem: "the patterns together pass the bound of 64 MiB compiled".to_owned(),
        offset: 0,
        too_large: true,
    }
}

// === impl Translator ===

fn translate(pattern: &str) -> Result<Translator, PatternError> {
    let source: Vec<char> = pattern.chars().collect();
    let mut translator = Translator { source, at: 0, out: String::new(), origin: Vec::new() };
    if translator.source.len() > MAX_PATTERN {
        return Err(PatternError {
            problem: format!("a pattern has at most {MAX_PATTERN} characters"),
            offset: MAX_PATTERN,
            too_large: true,
        });
    }
    translator.run()?;
    Ok(translator)
}

impl Translator {
    fn run(&mut self) -> Result<(), PatternError> {
        while let Some(character) = self.peek() {
            match character {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => self.group()?,
                '{' => self.repeat()?,
                '}' | ']' => {
                    self.push('\\');
                    self.take();
                }
                '*' | '+' | '?' => self.quantifier()?,
                _ => self.take(),
            }
        }
        Ok(())
    }

    fn escape(&mut self) -> Result<(), PatternError> {
        let start = self.at;
        let Some(&letter) = self.source.get(start + 1) else {
            return self.fail(start, "a backslash at the end escapes nothing");
        };
        self.at += 2;
        match letter {
            'd' | 'w' | 's' | 'D' | 'W' | 'S' => {
                let negated = if letter.is_ascii_uppercase() { "^" } else { "" };
                // `(?-i:…)`: under `i`, Unicode folding would add letters that RE2 does not.
                let class = format!("(?-i:[{negated}{}])", perl_class(letter));
                self.push_str(&class, start);
            }
            'b' => self.push_str(r"(?-u:\b)", start),
            'B' => self.push_str(r"(?-u:\B)", start),
            'A' => self.push_str(r"\A", start),
            'z' => self.push_str(r"\z", start),
            'C' => {
                return self.fail(
                    start,
                    r"`\C`, a single byte, is not taken: text is matched by characters",
                );
            }
            'Q' => self.quotation(start),
            'p' | 'P' => self.unicode_class(letter, start)?,
            '1'..='9' if !self.is_octal(start) => {
                return self.fail(start, "back-references do not exist in RE2");
            }
            'k' | 'g' => return self.fail(start, "back-references do not exist in RE2"),
            'Z' | 'G' | 'K' | 'X' | 'R' | 'h' | 'H' | 'V' | 'N' => {
                return self.fail(start, &format!("`\\{letter}` does not exist in RE2"));
            }
            _ => {
                self.at = start;
                let character = self.literal_escape()?;
                self.push_literal(character, start);
            }
        }
        Ok(())
    }

    /// An escape that stands for one character, inside a class or outside.
    fn literal_escape(&mut self) -> Result<char, PatternError> {
        let start = self.at;
        let Some(&letter) = self.source.get(start + 1) else {
            return self.fail(start, "a backslash at the end escapes nothing");
        };
        self.at += 2;
        Ok(match letter {
            'a' => '\u{7}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '0' => self.code(8, 2, start)?,
            '1'..='7' if self.is_octal(start) => {
                self.at -= 1;
                self.code(8, 3, start)?
            }
            'x' if self.peek() == Some('{') => {
                self.at += 1;
                let character = self.code(16, 8, start)?;
                if self.peek() != Some('}') {
                    return self.fail(start, r"`\x{` is not closed");
                }
                self.at += 1;
                character
            }
            'x' => self.code(16, 2, start)?,
            other if other.is_ascii_alphanumeric() => {
                return self.fail(start, &format!("`\\{other}` does not exist in RE2"));
            }
            other => other,
        })
    }

    /// Whether `\\12…` stands at `start`: two digits make a code, one alone would be a back-reference.
    fn is_octal(&self, start: usize) -> bool {
        let is_octal_digit = |at: usize| self.source.get(at).is_some_and(|c| c.is_digit(8));
        is_octal_digit(start + 1) && is_octal_digit(start + 2)
    }

    fn code(&mut self, radix: u32, most: usize, start: usize) -> Result<char, PatternError> {
        let mut value: u32 = 0;
        let mut digits = 0;
        while digits < most {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(radix)) else { break };
            value = value.saturating_mul(radix).saturating_add(digit);
            digits += 1;
            self.at += 1;
        }
        let complete = digits > 0 || radix == 8;
        match char::from_u32(value) {
            Some(character) if complete => Ok(character),
            _ => self.fail(start, "this escape names no character"),
        }
    }

    fn quotation(&mut self, start: usize) {
        while let Some(character) = self.peek() {
            if character == '\\' && self.source.get(self.at + 1) == Some(&'E') {
                self.at += 2;
                return;
            }
            self.push_literal(character, start);
            self.at += 1;
        }
    }

    /// `\pN`, `\p{Greek}`, `\p{^Greek}` and their negations, as the other dialect writes them.
    fn unicode_class(&mut self, letter: char, start: usize) -> Result<(), PatternError> {
        let mut negated = letter == 'P';
        let name: String = match self.peek() {
            Some('{') => {
                let Some(length) = self.source[self.at..].iter().position(|c| *c == '}') else {
                    return self.fail(start, "the name of this class is not closed");
                };
                let name: String = self.source[self.at + 1..self.at + length].iter().collect();
                self.at += length + 1;
                match name.strip_prefix('^') {
                    Some(rest) => {
                        negated = !negated;
                        rest.to_owned()
                    }
                    None => name,
                }
            }
            Some(one) => {
                self.at += 1;
                one.to_string()
            }
            None => return self.fail(start, "this class has no name"),
        };
        if name == "Any" {
            self.push_str(if negated { r"[^\x{0}-\x{10FFFF}]" } else { r"(?s:.)" }, start);
            return Ok(());
        }
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return self.fail(start, "this Unicode class is not known");
        }
        self.push_str(&format!("\\{}{{{name}}}", if negated { 'P' } else { 'p' }), start);
        Ok(())
    }

    fn class(&mut self) -> Result<(), PatternError> {
        let start = self.at;
        self.take();
        if self.peek() == Some('^') {
            self.take();
        }
        let first = self.at;
        loop {
            let here = self.at;
            let Some(character) = self.peek() else {
                return self.fail(start, "this class is not closed");
            };
            match character {
                ']' if here > first => {
                    self.take();
                    return Ok(());
                }
                '[' if self.source.get(here + 1) == Some(&':') => self.posix_class()?,
                '\\' => match self.source.get(here + 1) {
                    Some('d' | 'w' | 's') => {
                        let letter = self.source[here + 1];
                        self.at += 2;
                        self.push_str(perl_class(letter), here);
                    }
                    Some('D' | 'W' | 'S') => {
                        let letter = self.source[here + 1];
                        self.at += 2;
                        self.push_str(&format!("[^{}]", perl_class(letter)), here);
                    }
                    Some('p' | 'P') => {
                        let letter = self.source[here + 1];
                        self.at += 2;
                        self.unicode_class(letter, here)?;
                    }
                    _ => self.range()?,
                },
                _ => self.range()?,
            }
        }
    }

    /// A character of a class, or the range that it begins.
    fn range(&mut self) -> Result<(), PatternError> {
        self.class_character()?;
        let is_range = self.peek() == Some('-')
            && self.source.get(self.at + 1).is_some_and(|next| *next != ']');
        if is_range {
            self.take();
            self.class_character()?;
        }
        Ok(())
    }

    fn class_character(&mut self) -> Result<(), PatternError> {
        let here = self.at;
        let character = match self.peek() {
            Some('\\') => self.literal_escape()?,
            Some(character) => {
                self.at += 1;
                character
            }
            None => return self.fail(here, "this class is not closed"),
        };
        self.push_in_class(character, here);
        Ok(())
    }

    fn posix_class(&mut self) -> Result<(), PatternError> {
        const NAMES: [&str; 14] = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print",
            "punct", "space", "upper", "word", "xdigit",
        ];
        let start = self.at;
        let rest: String = self.source[start..].iter().take(14).collect();
        let Some(end) = rest[2..].find(":]").map(|end| end + 2) else {
            return self.range();
        };
        let name = rest[2..end].trim_start_matches('^');
        if !NAMES.contains(&name) {
            return self.fail(start, "this POSIX class is not known");
        }
        self.at += end + 2;
        self.push_str(&rest[..end + 2], start);
        Ok(())
    }

    fn group(&mut self) -> Result<(), PatternError> {
        let start = self.at;
        let head: String = self.source[start..].iter().take(4).collect();
        if ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|look| head.starts_with(look)) {
            return self.fail(start, "look-around does not exist in RE2");
        }
        if head.starts_with("(?>") {
            return self.fail(start, "atomic groups do not exist in RE2");
        }
        if head.starts_with("(?P=") || head.starts_with("(?P>") {
            return self.fail(start, "back-references and recursion do not exist in RE2");
        }
        self.take();
        if !head.starts_with("(?") || head.starts_with("(?P<") || head.starts_with("(?<") {
            return Ok(());
        }
        self.take();
        while let Some(flag) = self.peek() {
            match flag {
                'i' | 'm' | 's' | 'U' | '-' => self.take(),
                ':' | ')' => {
                    self.take();
                    return Ok(());
                }
                _ => return self.fail(self.at, "RE2 knows the flags i, m, s and U only"),
            }
        }
        self.fail(start, "this group is not closed")
    }

    /// `{n}`, `{n,}` and `{n,m}`; any other brace is a literal, as in RE2.
    fn repeat(&mut self) -> Result<(), PatternError> {
        let start = self.at;
        let inner: String =
            self.source[start + 1..].iter().take(16).take_while(|c| **c != '}').collect();
        let closed = self.source.get(start + 1 + inner.chars().count()) == Some(&'}');
        let (least, most) = inner.split_once(',').unwrap_or((&inner, &inner));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let is_repeat = closed && is_number(least) && (most.is_empty() || is_number(most));
        if !is_repeat {
            self.push('\\');
            self.take();
            return Ok(());
        }
        for count in [least, most].into_iter().filter(|text| !text.is_empty()) {
            if count.parse::<u32>().is_ok_and(|count| count <= MAX_REPEAT) {
                continue;
            }
            return self.fail(start, &format!("RE2 repeats at most {MAX_REPEAT} times"));
        }
        for _ in 0..inner.len() + 2 {
            self.take();
        }
        self.after_quantifier()
    }

    fn quantifier(&mut self) -> Result<(), PatternError> {
        self.take();
        self.after_quantifier()
    }

    /// Takes the `?` of a lazy quantifier; a second quantifier (`a**`, `a*+`) is an error in RE2.
    fn after_quantifier(&mut self) -> Result<(), PatternError> {
        if self.peek() == Some('?') {
            self.take();
        }
        match self.peek() {
            Some('*' | '+' | '?') => self.fail(self.at, "a repetition cannot be repeated"),
            _ => Ok(()),
        }
    }

    fn peek(&self) -> Option<char> {
        self.source.get(self.at).copied()
    }

    /// Copies the next character.
    fn take(&mut self) {
        if let Some(character) = self.peek() {
            self.push(character);
            self.at += 1;
        }
    }

    fn push(&mut self, character: char) {
        self.out.push(character);
        self.origin.push(self.at);
    }

    fn push_str(&mut self, text: &str, origin: usize) {
        self.out.push_str(text);
        self.origin.extend(text.chars().map(|_| origin));
    }

    fn push_literal(&mut self, character: char, origin: usize) {
        self.push_str(&format!("\\x{{{:X}}}", character as u32), origin);
    }

    /// Letters and digits stand for themselves; all else is written as a code point, so that `&&`, `--` and
    /// nested brackets stay literal.
    fn push_in_class(&mut self, character: char, origin: usize) {
        if character.is_ascii_alphanumeric() {
            self.push_str(character.encode_utf8(&mut [0; 4]), origin);
        } else {
            self.push_literal(character, origin);
        }
    }

    fn fail<T>(&self, offset: usize, problem: &str) -> Result<T, PatternError> {
        Err(PatternError { problem: problem.to_owned(), offset, too_large: false })
    }

    fn restate(&self, error: &regex_syntax::Error) -> PatternError {
        let (problem, place) = match error {
            regex_syntax::Error::Parse(error) => {
                (error.kind().to_string(), error.span().start.offset)
            }
            regex_syntax::Error::Translate(error) => {
                (error.kind().to_string(), error.span().start.offset)
            }
            other => (other.to_string(), 0),
        };
        let character = self.out.get(..place).map_or(0, |before| before.chars().count());
        let offset = self.origin.get(character).copied().unwrap_or(self.source.len());
        PatternError { problem, offset, too_large: false }
    }
}

const fn perl_class(letter: char) -> &'static str {
    match letter {
        'd' | 'D' => "0-9",
        'w' | 'W' => "0-9A-Za-z_",
        _ => r"\t\n\x0C\r\x20",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_match(pattern: &str, text: &str) -> bool {
        compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).regex.is_match(text)
    }

    #[test]
    fn perl_classes_and_word_boundaries_are_ascii_as_in_re2() {
        assert!(is_match(r"^\d$", "7") && !is_match(r"^\d$", "٧"));
        assert!(is_match(r"^\w$", "a") && !is_match(r"^\w$", "é"));
        assert!(is_match(r"^\W$", "é"));
        assert!(!is_match(r"^(?i)\w$", "ſ"));
        assert!(is_match(r"^\s$", "\t") && !is_match(r"^\s$", "\u{a0}"));
        assert!(is_match(r"\b\d{3}-\d{2}-\d{4}\b", "é123-45-6789é"));
        assert!(is_match(r"^[^\w]$", "é") && is_match(r"^[\d.]+$", "1.2"));
        assert!(is_match(r"^[\D]$", "é") && !is_match(r"^[\D]$", "1"));
    }

    #[test]
    fn re2_syntax_that_the_other_dialect_lacks_is_taken() {
        assert!(is_match(r"^\Qa.b*\E+$", "a.b**"));
        assert!(is_match(r"^[[a]$", "[") && is_match(r"^[[a]$", "a"));
        assert!(is_match(r"^[a&&b]+$", "a&b"));
        assert!(is_match(r"^[]a]+$", "]a"));
        assert!(is_match(r"^[a-]+$", "a-") && is_match(r"^[+--]$", ","));
        assert!(is_match(r"^[+--a]{4}$", "+,-a") && is_match(r"^[a-c--/x]{4}$", "b.-x"));
        assert!(is_match(r"^[[:]$", ":") && is_match(r"^[[:]]$", ":]"));
        assert!(is_match(r"^\101\x41\x{1F600}\0$", "AA😀\0"));
        assert!(is_match(r"^\pL\p{Greek}\P{Greek}\p{^Greek}$", "xλaa"));
        assert!(is_match(r"^[[:alpha:]]{2}[[:^digit:]]$", "abc"));
        assert!(is_match(r"^(?P<a>x)(?<b>y)$", "xy"));
        assert!(is_match(r"^a{,2}$", "a{,2}") && is_match("^{}$", "{}"));
        assert!(is_match(r"^a{1,2}b{2,}$", "aabbb"));
        assert!(is_match(r"^-\-\/\_\ $", "--/_ "));
        assert!(is_match(r"(?i)password\s*[:=]\s*\S+", "PassWord : x"));
    }

    #[test]
    fn what_re2_lacks_is_an_error_at_its_place() {
        for (pattern, offset) in [
            (r"a(?=b)", 1),
            (r"a(?!b)", 1),
            (r"é(?<=b)", 1),
            (r"a(?<!b)", 1),
            (r"(a)\1", 3),
            (r"(?P<x>a)(?P=x)", 8),
            (r"(?x)a", 2),
            (r"(?>a)", 0),
            (r"ab(", 2),
            (r"ab)", 2),
            (r"a[b", 1),
            (r"*a", 0),
            (r"a**", 2),
            (r"\", 0),
            (r"a\y", 1),
            (r"\p{Nope}", 0),
            (r"[z-a]", 1),
            (r"[+-\d]", 3),
            (r"[A--a]", 1),
            (r"a{1001}", 1),
            (r"\u0041", 0),
        ] {
            let error = compile(pattern).expect_err(pattern);
            assert_eq!(error.offset, offset, "{pattern}: {error}");
            assert!(!error.too_large, "{pattern}");
        }
    }

    #[test]
    fn a_pattern_over_the_compiled_size_is_an_error() {
        assert!(compile(r"(\pL{1000}){1000}").unwrap_err().too_large);
        assert!(compile(&"a".repeat(5000)).unwrap_err().too_large);
        assert!(compile(&"(".repeat(2000)).is_err());
    }
}
