//! Typed identifiers. Each has one text form, and parsing accepts that form only.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use ulid::Ulid;
use uuid::Uuid;

/// A workspace, the tenant boundary. Text form `ws-<uuid>`, lower case and hyphenated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceId(Uuid);

/// A registered agent. Text form: a lower-case hyphenated UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(Uuid);

/// An audit entry. Text form `evt_<ulid>`, the ULID in lower case, so ids sort by time of creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(Ulid);

/// A budget window of a spender. Text form: a lower-case hyphenated UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BudgetId(Uuid);

/// A request for a person's approval. Text form: a lower-case hyphenated UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApprovalId(Uuid);

/// The idempotency key of one action, made by the client: 16 bytes, unique per agent. Text form: a
/// lower-case hyphenated UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionId(Uuid);

/// A text that is not the form of the id it was read as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {expected}")]
pub struct IdError {
    text: String,
    expected: &'static str,
}

// === impl WorkspaceId ===

impl WorkspaceId {
    /// Wraps a UUID.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID behind the prefix.
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }

    /// The text form, for writers that append bytes.
    pub fn to_ascii(&self) -> [u8; 39] {
        let mut text = *b"ws-00000000-0000-0000-0000-000000000000";
        self.0.as_hyphenated().encode_lower(&mut text[3..]);
        text
    }
}

impl fmt::Display for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ws-{}", self.0.as_hyphenated())
    }
}

impl FromStr for WorkspaceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let uuid = text.strip_prefix("ws-").and_then(canonical_uuid);
        uuid.map(Self).ok_or_else(|| IdError::new(text, "workspace id (ws-<uuid>, lower case)"))
    }
}

// === impl AgentId ===

impl AgentId {
    /// Wraps a UUID.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The id an agent gets when it registers under a name only: a version 5 UUID of the name within
    /// the workspace, so that the same name is the same agent in every process and after every restart.
    pub fn of_name(workspace: WorkspaceId, name: &str) -> Self {
        Self(Uuid::new_v5(workspace.as_uuid(), name.as_bytes()))
    }

    /// The UUID.
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }

    /// The text form, for writers that append bytes.
    pub fn to_ascii(&self) -> [u8; 36] {
        hyphenated(&self.0)
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for AgentId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        canonical_uuid(text)
            .map(Self)
            .ok_or_else(|| IdError::new(text, "agent id (a hyphenated lower-case UUID)"))
    }
}

// === impl BudgetId ===

impl BudgetId {
    /// Wraps a UUID.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The id of the window that is named `name` within the workspace: a version 5 UUID.
    pub fn of_name(workspace: WorkspaceId, name: &str) -> Self {
        let budgets = Uuid::new_v5(workspace.as_uuid(), b"budgets");
        Self(Uuid::new_v5(&budgets, name.as_bytes()))
    }

    /// The UUID.
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }

    /// The text form, for writers that append bytes.
    pub fn to_ascii(&self) -> [u8; 36] {
        hyphenated(&self.0)
    }
}

impl fmt::Display for BudgetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for BudgetId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        canonical_uuid(text)
            .map(Self)
            .ok_or_else(|| IdError::new(text, "budget id (a hyphenated lower-case UUID)"))
    }
}

// === impl ApprovalId ===

impl ApprovalId {
    /// Wraps a UUID.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Wraps 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The id of the request that an agent's action leads to: the same however often it is sent.
    pub fn of_action(agent: AgentId, action: ActionId) -> Self {
        Self(Uuid::new_v5(agent.as_uuid(), &action.to_bytes()))
    }

    /// The UUID.
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }

    /// The 16 bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// The text form, for writers that append bytes.
    pub fn to_ascii(&self) -> [u8; 36] {
        hyphenated(&self.0)
    }
}

impl fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for ApprovalId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        canonical_uuid(text)
            .map(Self)
            .ok_or_else(|| IdError::new(text, "approval id (a hyphenated lower-case UUID)"))
    }
}

// === impl EventId ===

impl EventId {
    /// Composes an id from its creation time and 80 random bits (the low bits of `random`).
    pub const fn from_parts(unix_millis: u64, random: u128) -> Self {
        Self(Ulid::from_parts(unix_millis, random))
    }

    /// Milliseconds since the Unix epoch at which the id was made.
    pub const fn unix_millis(&self) -> u64 {
        self.0.timestamp_ms()
    }

    /// The 16 bytes of the ULID, most significant first; their order is the order of the ids.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.0.to_be_bytes()
    }

    /// The text form, for writers that append bytes.
    pub fn to_ascii(&self) -> [u8; 30] {
        let mut text = *b"evt_00000000000000000000000000";
        // 48 bits of time in 10 digits, 80 random bits in 16, each of five bits.
        let value = self.0.0;
        let groups = [(value >> 80) as u64, (value >> 40) as u64, value as u64];
        let (time, random) = text[4..].split_at_mut(10);
        let (high, low) = random.split_at_mut(8);
        for (digits, mut group) in [time, high, low].into_iter().zip(groups) {
            for digit in digits.iter_mut().rev() {
                *digit = CROCKFORD[(group & 31) as usize];
                group >>= 5;
            }
        }
        text
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_ascii()))
    }
}

impl FromStr for EventId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        text.strip_prefix("evt_")
            .filter(|ulid| !ulid.bytes().any(|byte| byte.is_ascii_uppercase()))
            .and_then(|ulid| Ulid::from_string(ulid).ok())
            .map(Self)
            .ok_or_else(|| IdError::new(text, "event id (evt_<ulid>, lower case)"))
    }
}

// === impl ActionId ===

impl ActionId {
    /// Wraps 16 bytes made by a client.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// The text form, for writers that append bytes.
    pub fn to_ascii(&self) -> [u8; 36] {
        hyphenated(&self.0)
    }
}

impl fmt::Display for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for ActionId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        canonical_uuid(text)
            .map(Self)
            .ok_or_else(|| IdError::new(text, "action id (a hyphenated lower-case UUID)"))
    }
}

// === impl IdError ===

impl IdError {
    fn new(text: &str, expected: &'static str) -> Self {
        let shown = text.chars().take(64).collect();
        Self { text: shown, expected }
    }
}

/// The digits of a ULID (Crockford's base 32), in lower case.
const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn hyphenated(uuid: &Uuid) -> [u8; 36] {
    let mut text = [0; 36];
    uuid.as_hyphenated().encode_lower(&mut text);
    text
}

/// A UUID in its one canonical form; `uuid` itself also reads braces, URNs and upper case.
fn canonical_uuid(text: &str) -> Option<Uuid> {
    let canonical =
        text.len() == 36 && !text.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'{');
    if canonical { Uuid::try_parse(text).ok() } else { None }
}

macro_rules! text_form {
    ($($id:ty),+) => {$(
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $id {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    )+};
}

text_form!(WorkspaceId, AgentId, ApprovalId, BudgetId, EventId, ActionId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_reads_back_what_it_prints() {
        let workspace: WorkspaceId = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        assert_eq!(workspace.to_string(), "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890");
        let event = EventId::from_parts(1_763_000_000_000, 42);
        assert_eq!(event.to_string().parse::<EventId>().unwrap(), event);
        assert!(event.to_string().starts_with("evt_01"));
        let full = EventId::from_parts((1 << 48) - 1, u128::MAX);
        assert_eq!(full.to_string(), format!("evt_{}", full.0.to_string().to_lowercase()));
        let agent = AgentId::of_name(workspace, "langchain-research-agent");
        assert_eq!(agent.to_string().parse::<AgentId>().unwrap(), agent);
        assert_eq!(agent.to_string().as_bytes(), agent.to_ascii());
        assert_eq!(workspace.to_string().as_bytes(), workspace.to_ascii());
        let action = ActionId::from_bytes([0x5a; 16]);
        assert_eq!(action.to_string().as_bytes(), action.to_ascii());
    }

    #[test]
    fn only_the_canonical_form_is_read() {
        for text in [
            "a1b2c3d4-e5f6-7890-abcd-ef1234567890",
            "ws-A1B2C3D4-E5F6-7890-ABCD-EF1234567890",
            "ws-{a1b2c3d4-e5f6-7890-abcd-ef1234567890}",
            "ws-a1b2c3d4e5f67890abcdef1234567890",
            "ws-",
        ] {
            assert!(text.parse::<WorkspaceId>().is_err(), "{text}");
        }
        assert!("evt_01J".parse::<EventId>().is_err());
    }
}
