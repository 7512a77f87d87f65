//! The W3C trace that a request belongs to (<https://www.w3.org/TR/trace-context/>).

use http::HeaderMap;

/// Trace and parent span, as `traceparent` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) id: [u8; 16],
    pub(crate) parent: [u8; 8],
}

// === impl Trace ===

impl Trace {
    /// Reads the header; one that is malformed counts as absent, as the recommendation has it.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get("traceparent")?.to_str().ok()?;
        let mut parts = text.split('-');
        let (version, id, parent) = (parts.next()?, parts.next()?, parts.next()?);
        parts.next()?;
        let version_holds = version.len() == 2 && version != "ff";
        let trace = Self { id: hex(id)?, parent: hex(parent)? };
        (version_holds && trace.id != [0; 16] && trace.parent != [0; 8]).then_some(trace)
    }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let well_formed = text.len() == 2 * N
        && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if !well_formed {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(value: &'static str) -> Option<Trace> {
        Trace::of(&HeaderMap::from_iter([(
            "traceparent".parse().unwrap(),
            HeaderValue::from_static(value),
        )]))
    }

    #[test]
    fn the_parent_is_read() {
        let trace = of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        assert_eq!(trace.id[..2], [0x0a, 0xf7]);
        assert_eq!(trace.parent, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
    }

    #[test]
    fn what_is_malformed_is_absent() {
        for value in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(of(value), None, "{value}");
        }
    }
}
