//! The certificate authority with which `aa-proxy` stands in for the hosts that agents call.
//!
//! It is one file, `authority.pem` in a directory of its own, that holds the key, its certificate and, for a while after
//! a rotation, the certificate that clients knew before. Whoever reads the key can pose as every host to all who trust
//! the authority, so the file is refused when others can read it, and the authority vouches for servers only (extended
//! key usage), on request below certain domains only (name constraints).
//!
//! **Rotation without an outage.** The former authority signs the new one's key once more. While the overlap lasts, every
//! leaf comes with that certificate, so clients that trust only the former authority still find a path to it, and the
//! exported bundle has both. The former key is gone from the first moment.
//!
//! It knows no sockets and no clock: what time it is, is an argument.
//!
//! ```
//! use aa_ca::{Authority, AuthorityOptions};
//! use std::time::{Duration, SystemTime};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path();
//! let now = SystemTime::now();
//! let authority = Authority::open(directory, &AuthorityOptions::default(), now)?;
//! let leaf = authority.issue(&"api.example.com".try_into()?, Duration::from_secs(86_400), now)?;
//! assert_eq!(leaf.chain.len(), 1);
//! assert!(authority.bundle(now).starts_with("-----BEGIN CERTIFICATE-----"));
//! # Ok(())
//! # }
//! ```

mod authority;
mod certificate;
mod directory;

pub use self::{
    authority::{
        Authority, AuthorityError, AuthorityOptions, IssueError, Issued, NamedCertificate, Rotation,
    },
    directory::{AUTHORITY_FILE, DirectoryError},
};
