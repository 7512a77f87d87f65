//! What can be wrong with an upstream's TLS, as people are told.

use std::{fmt, io, time::Duration};

use rustls::{AlertDescription as Alert, CertificateError, Error as RustlsError, PeerIncompatible};
use rustls_pki_types::UnixTime;
use time::OffsetDateTime;

use super::pin::{NotPinned, Pin};

/// What is wrong. It begins with a verb, of which the upstream is the subject.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamProblem {
    /// Its certificate's time is over.
    #[error("presents a certificate that expired{}; its operator has to renew it, unless this machine's clock is wrong", on(*.at))]
    Expired {
        /// When it expired.
        at: Option<UnixTime>,
    },
    /// Its certificate's time has not begun.
    #[error("presents a certificate that is not valid yet{}; see whether this machine's clock is right", on(*.from))]
    NotYetValid {
        /// When it will be valid.
        from: Option<UnixTime>,
    },
    /// Its certificate is for others.
    #[error("presents a certificate for other names ({}); see whether the host is right, and who answers there", presented.join(", "))]
    WrongHost {
        /// What it is for; the first few.
        presented: Vec<String>,
    },
    /// No trusted authority vouches for it.
    #[error(
        "presents a certificate that no trusted authority vouches for; if its authority is one of yours, add that to the upstream roots"
    )]
    UnknownIssuer,
    /// It presents the certificate of an authority, as self-signed certificates mostly are.
    #[error(
        "presents an authority's own certificate, as self-signed ones are; it needs a server's certificate by an authority that is among the upstream roots"
    )]
    AuthorityAsServer,
    /// It was revoked.
    #[error("presents a certificate that was revoked; its operator has to replace it")]
    Revoked,
    /// It is not known whether it was revoked.
    #[error(
        "presents a certificate of which no list tells whether it was revoked; add its issuer's list, or allow unknown status"
    )]
    RevocationUnknown,
    /// The list that would tell is too old.
    #[error(
        "presents a certificate whose issuer's list of revoked ones is out of date; fetch the list again"
    )]
    RevocationListExpired,
    /// It has another key than the pinned ones.
    #[error("presents a certificate with none of the pinned keys; if the change is wanted, pin {}", found.as_ref().map_or_else(|| "its key".to_owned(), Pin::to_string))]
    PinMismatch {
        /// The key it has.
        found: Option<Pin>,
    },
    /// Its certificate does not read, is not for servers, or is wrong otherwise.
    #[error(
        "presents a certificate that cannot be used ({detail}); its operator has to replace it"
    )]
    BadCertificate {
        /// What is wrong.
        detail: String,
    },
    /// It wants a client certificate, or another one.
    #[error(
        "does not take us without a client certificate it accepts ({alert}); configure one for this host, or renew it"
    )]
    ClientCertificate {
        /// What it said.
        alert: String,
    },
    /// It speaks no version of TLS that may be spoken.
    #[error("speaks no version of TLS that is allowed; have it speak TLS 1.3, or allow TLS 1.2")]
    Version,
    /// It speaks none of the protocols that were offered.
    #[error("speaks none of the protocols that were offered to it (ALPN)")]
    Protocol,
    /// It has a name that no certificate can carry.
    #[error("has a name that no certificate can carry; use another name of it")]
    Name,
    /// The handshake failed otherwise.
    #[error(
        "and this proxy do not agree on TLS ({detail}); see whether it speaks TLS on that port"
    )]
    Handshake {
        /// What is wrong.
        detail: String,
    },
    /// The connection broke.
    #[error("closed the connection in the midst of the handshake ({0})")]
    Closed(io::ErrorKind),
    /// The handshake took too long.
    #[error("did not finish the handshake within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
}

/// More names of a certificate are not shown.
const MAX_PRESENTED: usize = 5;
/// As much of each is shown.
const MAX_NAME: usize = 100;

// === impl UpstreamProblem ===

impl UpstreamProblem {
    /// What is wrong, by the error of a stream: that of the handshake, or of the first read after it, by which servers of
    /// TLS 1.3 tell that they do not take a client's certificate.
    pub fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<RustlsError>()) {
            Some(error) => Self::of_tls(error),
            None => Self::Closed(error.kind()),
        }
    }

    fn of_tls(error: &RustlsError) -> Self {
        let detail = || error.to_string();
        match error {
            RustlsError::InvalidCertificate(error) => Self::of_certificate(error),
            RustlsError::NoCertificatesPresented => Self::BadCertificate { detail: detail() },
            RustlsError::InvalidCertRevocationList(_) => Self::RevocationUnknown,
            RustlsError::NoApplicationProtocol
            | RustlsError::AlertReceived(Alert::NoApplicationProtocol) => Self::Protocol,
            RustlsError::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired,
            )
            | RustlsError::AlertReceived(Alert::ProtocolVersion) => Self::Version,
            RustlsError::AlertReceived(
                alert @ (Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateExpired
                | Alert::CertificateRevoked
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied),
            ) => Self::ClientCertificate { alert: format!("{alert:?}") },
            _ => Self::Handshake { detail: detail() },
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired => Self::Expired { at: None },
            CertificateError::ExpiredContext { not_after, .. } => {
                Self::Expired { at: Some(*not_after) }
            }
            CertificateError::NotValidYet => Self::NotYetValid { from: None },
            CertificateError::NotValidYetContext { not_before, .. } => {
                Self::NotYetValid { from: Some(*not_before) }
            }
            CertificateError::NotValidForName => Self::WrongHost { presented: Vec::new() },
            CertificateError::NotValidForNameContext { presented, .. } => Self::WrongHost {
                presented: presented.iter().take(MAX_PRESENTED).map(|name| plain(name)).collect(),
            },
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::UnknownRevocationStatus => Self::RevocationUnknown,
            CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => Self::RevocationListExpired,
            CertificateError::Other(other) => match other.0.downcast_ref::<NotPinned>() {
                Some(NotPinned { found }) => Self::PinMismatch { found: *found },
                None if other.0.to_string() == "CaUsedAsEndEntity" => Self::AuthorityAsServer,
                None => Self::BadCertificate { detail: other.0.to_string() },
            },
            error => Self::BadCertificate { detail: error.to_string() },
        }
    }
}

/// The library shows names as `DnsName("a.example")`.
fn plain(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"').chars().take(MAX_NAME).collect()
}

/// ` on <day>`, if the day is known.
fn on(moment: Option<UnixTime>) -> impl fmt::Display {
    let seconds = moment.and_then(|moment| i64::try_from(moment.as_secs()).ok());
    let moment = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    moment.map(|moment| format!(" on {}", moment.date())).unwrap_or_default()
}
