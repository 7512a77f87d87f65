//! The header that names the codings of a body.

use std::fmt;

/// A coding that can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`, or `x-gzip`.
    Gzip,
    /// `deflate`.
    Deflate,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
}

/// The codings of a body, in the order in which they were applied; at most two. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentEncoding(Vec<Coding>);

/// A `Content-Encoding` that cannot be undone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownEncoding {
    /// It names a coding that is not known.
    #[error("the content coding `{0}` is not known; known are gzip, deflate, br and zstd")]
    Unknown(String),
    /// It names too many.
    #[error("more than {MAX_CODINGS} content codings, one upon another, are not undone")]
    TooMany,
}

const MAX_CODINGS: usize = 2;
/// Characters of an unknown name that an error quotes.
const MAX_QUOTED: usize = 32;

// === impl Coding ===

impl Coding {
    /// Its name in the header, which is also how it is displayed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl ContentEncoding ===

impl ContentEncoding {
    /// Reads the values of all `Content-Encoding` header fields of a message, each a list, in their order.
    /// `identity` is no coding.
    ///
    /// # Errors
    /// When a coding is not known, or they are more than two.
    pub fn parse<'v>(values: impl IntoIterator<Item = &'v str>) -> Result<Self, UnknownEncoding> {
        let mut codings = Vec::new();
        let names = values.into_iter().flat_map(|value| value.split(',')).map(str::trim);
        for name in names.filter(|name| !name.is_empty()) {
            let coding = match &*name.to_ascii_lowercase() {
                "identity" => continue,
                "gzip" | "x-gzip" => Coding::Gzip,
                "deflate" => Coding::Deflate,
                "br" => Coding::Brotli,
                "zstd" => Coding::Zstd,
                other => {
                    let quoted = other.chars().filter(char::is_ascii_graphic).take(MAX_QUOTED);
                    return Err(UnknownEncoding::Unknown(quoted.collect()));
                }
            };
            if codings.len() == MAX_CODINGS {
                return Err(UnknownEncoding::TooMany);
            }
            codings.push(coding);
        }
        Ok(Self(codings))
    }

    /// Whether bodies are as they are.
    pub fn is_identity(&self) -> bool {
        self.0.is_empty()
    }

    /// The codings, in the order in which they were applied.
    pub fn codings(&self) -> &[Coding] {
        &self.0
    }
}

impl From<Coding> for ContentEncoding {
    fn from(coding: Coding) -> Self {
        Self(vec![coding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_are_read_in_their_order_from_all_fields() {
        let parse = |values: &[&str]| ContentEncoding::parse(values.iter().copied());
        let codings = |values| parse(values).unwrap().codings().to_vec();
        assert_eq!(codings(&["gzip"]), [Coding::Gzip]);
        assert_eq!(codings(&[" X-GZip , identity,,", "BR"]), [Coding::Gzip, Coding::Brotli]);
        assert!(parse(&["identity"]).unwrap().is_identity() && parse(&[]).unwrap().is_identity());
        assert_eq!(parse(&["gzip, br", "zstd"]), Err(UnknownEncoding::TooMany));
        assert_eq!(parse(&["gzip;q=1"]), Err(UnknownEncoding::Unknown("gzip;q=1".to_owned())));
        assert!(parse(&["compress"]).is_err());
    }
}
