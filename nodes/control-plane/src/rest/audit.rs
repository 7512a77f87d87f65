//! The audit log: reading it, following it, taking it away with its proof.

use std::sync::Arc;

use aa_governance::{
    audit::{Cursor, ExportFormat, Filter, Page},
    permission::ReadAudit,
};
use aa_ledger::Kind;
use aa_protocol::{AgentId, EventId, Timestamp, Verdict};
use axum::{
    Json,
    extract::State,
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    access::Authorized,
    agents::page_limit,
    input::{Params, invalid},
    problem::{Problem, ProblemKind},
    streamed::Streamed,
};

/// A page of entries.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EntryPage {
    /// The entries exactly as they are sealed, newest first.
    #[schema(value_type = Vec<Object>)]
    pub entries: Vec<Box<RawValue>>,
    /// What to give as `cursor` for the next page; absent on the last. A page may come back short, even
    /// empty, with a cursor to go on.
    pub next: Option<String>,
}

/// What came after a cursor.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EntryTail {
    /// The entries exactly as they are sealed, oldest first.
    #[schema(value_type = Vec<Object>)]
    pub entries: Vec<Box<RawValue>>,
    /// What to give as `cursor` next time.
    pub cursor: String,
}

/// A keys file for `aasm audit verify --keys`. It holds nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogKeys {
    /// The keys that sign the log's checkpoints.
    pub log_keys: Vec<LogKey>,
}

/// A key that signs checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogKey {
    /// The C2SP verifier key: `<name>+<id>+<base64>`.
    pub key: String,
}

/// Which entries are wanted. Everything absent matches everything.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct EntryParams {
    /// Of this agent.
    #[param(value_type = Option<String>)]
    agent: Option<AgentId>,
    /// Of this kind: `decision`, `event`, `registration`, `refusal`, `status`, `policy`, `key`,
    /// `workspace`, `budget`, `approval`, `secret` or `alert`.
    #[param(value_type = Option<String>)]
    kind: Option<Kind>,
    /// With this verdict: `allow`, `deny` or `require_approval`.
    #[param(value_type = Option<String>)]
    verdict: Option<Verdict>,
    /// Of this time or later, RFC 3339.
    #[param(value_type = Option<String>)]
    since: Option<Timestamp>,
    /// Before this time, RFC 3339.
    #[param(value_type = Option<String>)]
    until: Option<Timestamp>,
    /// The entry of this id.
    #[param(value_type = Option<String>)]
    event: Option<EventId>,
    /// Where to go on: what the page before gave.
    cursor: Option<String>,
    /// Entries on the page, 1 to 1 000; 100 when absent.
    limit: Option<usize>,
}

/// How an export is written.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ExportParams {
    /// `jsonl`, closed by a signed checkpoint, or `cef` for a SIEM. Default: `jsonl`.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    format: Format,
    /// At least everything of this time or later, RFC 3339. Default: everything.
    #[param(value_type = Option<String>)]
    since: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Jsonl,
    Cef,
}

const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;

/// Entries that match, newest first.
#[utoipa::path(
    get, path = "/audit/entries", tag = "audit", operation_id = "list_entries",
    security(("api_key" = [])),
    params(EntryParams),
    responses(
        (status = 200, description = "A page of entries", body = EntryPage),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_entries(
    Authorized(permit): Authorized<ReadAudit>,
    State(state): State<Arc<ApiState>>,
    Params(params): Params<EntryParams>,
) -> Result<Json<EntryPage>, Problem> {
    let (filter, cursor, limit) = params.read()?;
    let page = state.governance.entries(&permit, &filter, cursor.as_ref(), limit).await?;
    let Page { lines, next } = page;
    Ok(Json(EntryPage {
        entries: raw_entries(&lines)?,
        next: next.map(|cursor| cursor.to_string()),
    }))
}

/// Entries that match and came after a cursor, oldest first. Without a cursor: none, and the cursor of the
/// log's present end.
#[utoipa::path(
    get, path = "/audit/tail", tag = "audit", operation_id = "tail_entries",
    security(("api_key" = [])),
    params(EntryParams),
    responses(
        (status = 200, description = "What came after the cursor", body = EntryTail),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn tail_entries(
    Authorized(permit): Authorized<ReadAudit>,
    State(state): State<Arc<ApiState>>,
    Params(params): Params<EntryParams>,
) -> Result<Json<EntryTail>, Problem> {
    let (filter, cursor, limit) = params.read()?;
    let page = state.governance.entries_after(&permit, &filter, cursor.as_ref(), limit).await?;
    let cursor = page.next.or(cursor).unwrap_or_default().to_string();
    Ok(Json(EntryTail { entries: raw_entries(&page.lines)?, cursor }))
}

/// The log, or what is of a time or later, as a file.
///
/// An export that cannot be finished ends in a broken connection, never like a whole one.
#[utoipa::path(
    get, path = "/audit/export", tag = "audit", operation_id = "export_entries",
    security(("api_key" = [])),
    params(ExportParams),
    responses(
        (status = 200, description = "The export", content(
            (String = "application/jsonl"), (String = "text/plain"))),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn export_entries(
    Authorized(permit): Authorized<ReadAudit>,
    State(state): State<Arc<ApiState>>,
    Params(params): Params<ExportParams>,
) -> Result<Response, Problem> {
    let Ok(held) = Arc::clone(&state.exports).try_acquire_owned() else {
        let detail = "too many exports are under way; try again when one is done";
        return Err(Problem::new(ProblemKind::Overloaded, detail).retry_after(10));
    };
    let (format, content_type, extension) = match params.format {
        Format::Jsonl => (ExportFormat::JsonLines, "application/jsonl", "jsonl"),
        Format::Cef => (ExportFormat::Cef, "text/plain; charset=utf-8", "cef"),
    };
    let version = state.info.version;
    let export = state.governance.export(&permit, format, params.since, version).await?;
    let headers = [
        (header::CONTENT_TYPE, content_type.to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{}-audit.{extension}\"", export.workspace),
        ),
    ];
    let lines_left = match format {
        ExportFormat::JsonLines => None,
        ExportFormat::Cef => Some(export.checkpoint.checkpoint.size.saturating_sub(export.first)),
    };
    let streamed = Streamed { chunks: export.chunks, lines_left, held };
    Ok((headers, streamed.body()).into_response())
}

/// A signed checkpoint over everything committed so far, in the C2SP form. Kept elsewhere, it shows
/// later whether the log was cut or rewritten.
#[utoipa::path(
    get, path = "/audit/checkpoint", tag = "audit", operation_id = "get_checkpoint",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "The checkpoint", body = String, content_type = "text/plain"),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_checkpoint(
    Authorized(permit): Authorized<ReadAudit>,
    State(state): State<Arc<ApiState>>,
) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    let signed = state.governance.checkpoint(&permit).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], signed.note))
}

/// The keys that sign the log, as the keys file that `aasm audit verify --keys` reads.
#[utoipa::path(
    get, path = "/audit/keys", tag = "audit", operation_id = "get_log_keys",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "The keys", body = LogKeys),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_log_keys(
    Authorized(permit): Authorized<ReadAudit>,
    State(state): State<Arc<ApiState>>,
) -> Result<Json<LogKeys>, Problem> {
    let key = state.governance.log_verifier(&permit)?.to_string();
    Ok(Json(LogKeys { log_keys: vec![LogKey { key }] }))
}

fn raw_entries(lines: &[Bytes]) -> Result<Vec<Box<RawValue>>, Problem> {
    let raw = |line: &Bytes| {
        let text = String::from_utf8(line.to_vec()).ok()?;
        RawValue::from_string(text).ok()
    };
    lines.iter().map(raw).collect::<Option<_>>().ok_or_else(|| {
        tracing::error!("an entry of the audit log does not read as JSON");
        Problem::new(ProblemKind::Internal, "an entry is damaged; the server's log says more")
    })
}

// === impl EntryParams ===

impl EntryParams {
    fn read(self) -> Result<(Filter, Option<Cursor>, usize), Problem> {
        let Self { agent, kind, verdict, since, until, event, cursor, limit } = self;
        let cursor = cursor.map(|text| text.parse::<Cursor>()).transpose();
        let cursor = cursor.map_err(|error| invalid(error.to_string()))?;
        let limit = page_limit(limit, DEFAULT_PAGE, MAX_PAGE)?;
        Ok((Filter { agent, kind, verdict, since, until, event }, cursor, limit))
    }
}
