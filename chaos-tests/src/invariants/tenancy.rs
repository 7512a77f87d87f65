//! What one tenant can learn of another through the operator API.

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, header},
};
use serde_json::Value;
use tower::ServiceExt;

use super::Violation;

/// A tenant whose secrets nobody else may see.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// What violations call it.
    pub name: String,
    /// An owner's key.
    pub owner_key: String,
    /// The id of an agent of it.
    pub agent: String,
    /// The name of a policy of it.
    pub policy: String,
    /// The id of an API key of it.
    pub key: String,
    /// The id of an entry of its log.
    pub event: String,
    /// Texts that occur in its data and nowhere else. No id of the above: an answer may repeat what was asked.
    pub marks: Vec<String>,
}

/// What was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenancyChecked {
    /// Requests with the other tenant's key.
    pub requests: u64,
    /// Those that were refused.
    pub refused: u64,
    /// Answers of the tenant itself that held its marks, so that their absence elsewhere means something.
    pub marked: u64,
}

/// The longest answer that is looked at, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// Asks every route of the API's own document for what is `tenant`'s, with the key of `stranger`, and then
/// whether `tenant` still has what it had. Routes that are added are asked without being named here.
///
/// # Errors
/// [`Violation::Leaked`]: a stranger saw a mark, or changed something.
pub async fn check_tenancy(
    api: &Router,
    tenant: &Tenant,
    stranger: &Tenant,
) -> Result<TenancyChecked, Violation> {
    let mut checked = TenancyChecked::default();
    let before = own_view(api, tenant, &mut checked).await?;
    let approval = some_approval(api, tenant).await?;
    for (method, path) in routes(api).await? {
        for query in [
            "",
            "?limit=1000",
            &format!("?agent={}", tenant.agent),
            &format!("?event={}", tenant.event),
        ] {
            let uri = format!("{}{query}", filled(&path, tenant, approval.as_deref()));
            let (status, answer) = ask(api, &stranger.owner_key, &method, &uri).await?;
            checked.requests += 1;
            checked.refused += u64::from(!status.is_success());
            if let Some(mark) = tenant.marks.iter().find(|mark| answer.contains(mark.as_str())) {
                return Err(leaked(
                    stranger,
                    &format!("{method} {uri}"),
                    status,
                    &format!("… {mark} …"),
                ));
            }
            // Of another's agent there is nothing to have, not even an empty answer.
            if path.contains("{id}") && status.is_success() {
                return Err(leaked(stranger, &format!("{method} {uri}"), status, &answer));
            }
        }
    }
    let after = own_view(api, tenant, &mut checked).await?;
    for ((uri, was), (_, is)) in before.iter().zip(&after) {
        if was != is {
            return Err(leaked(
                stranger,
                &format!("to change what {} has at {uri}", tenant.name),
                StatusCode::OK,
                is,
            ));
        }
    }
    Ok(checked)
}

/// What the tenant sees of its own by itself: state, no measurements.
async fn own_view(
    api: &Router,
    tenant: &Tenant,
    checked: &mut TenancyChecked,
) -> Result<Vec<(String, String)>, Violation> {
    let mut view = Vec::new();
    for path in [
        "/agents",
        "/agents/{id}",
        "/policies",
        "/policies/{name}",
        "/policies/{name}/history",
        "/budgets",
        "/prices",
        "/approvals",
        "/approvers",
        "/keys",
        "/audit/entries",
    ] {
        let uri = format!(
            "/api/v1{}",
            path.replace("{id}", &tenant.agent).replace("{name}", &tenant.policy)
        );
        let (status, answer) = ask(api, &tenant.owner_key, &Method::GET, &uri).await?;
        if !status.is_success() {
            return Err(leaked(tenant, &format!("for its own {uri}"), status, &answer));
        }
        checked.marked += u64::from(tenant.marks.iter().any(|mark| answer.contains(mark.as_str())));
        view.push((uri, answer));
    }
    Ok(view)
}

/// Every method and path of the API's document.
async fn routes(api: &Router) -> Result<Vec<(Method, String)>, Violation> {
    let (_, text) = ask(api, "", &Method::GET, "/api/v1/openapi.json").await?;
    let document: Value =
        serde_json::from_str(&text).map_err(|error| Violation::Unreadable(error.to_string()))?;
    let paths = document["paths"].as_object().into_iter().flatten();
    let routes = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().into_iter().flatten();
        methods.filter_map(|(method, _)| Some((method.to_uppercase().parse().ok()?, path.clone())))
    });
    let routes: Vec<_> = routes.collect();
    if routes.is_empty() {
        return Err(Violation::Unreadable("the API's document has no paths".to_owned()));
    }
    Ok(routes)
}

/// A request for approval of the tenant's, if anything was ever asked.
async fn some_approval(api: &Router, tenant: &Tenant) -> Result<Option<String>, Violation> {
    let uri = "/api/v1/approvals?state=all&limit=1";
    let (_, answer) = ask(api, &tenant.owner_key, &Method::GET, uri).await?;
    let page: Value = serde_json::from_str(&answer).unwrap_or_default();
    Ok(page["approvals"][0]["id"].as_str().map(str::to_owned))
}

/// A path with what is the tenant's in it. No mark is: an answer may repeat what was asked.
fn filled(path: &str, tenant: &Tenant, approval: Option<&str>) -> String {
    let id = if path.contains("/keys/") {
        &tenant.key
    } else if path.contains("/approvals/") {
        // Without a request there is still an id of the right form.
        approval.unwrap_or(&tenant.agent)
    } else {
        &tenant.agent
    };
    path.replace("{id}", id)
        .replace("{name}", &tenant.policy)
        .replace("{team}", &tenant.name)
        .replace("{window}", "daily")
}

async fn ask(
    api: &Router,
    key: &str,
    method: &Method,
    uri: &str,
) -> Result<(StatusCode, String), Violation> {
    let unreadable =
        |error: &dyn std::fmt::Display| Violation::Unreadable(format!("{method} {uri}: {error}"));
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .body(Body::empty())
        .map_err(|error| unreadable(&error))?;
    let mut request = request;
    request.extensions_mut().insert(aa_control_plane::rest::PeerAddress([127, 0, 0, 1].into()));
    let Ok(response) = api.clone().oneshot(request).await;
    let status = response.status();
    let body =
        to_bytes(response.into_body(), MAX_ANSWER).await.map_err(|error| unreadable(&error))?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

fn leaked(who: &Tenant, what: &str, status: StatusCode, answer: &str) -> Violation {
    Violation::Leaked {
        who: who.name.clone(),
        what: what.to_owned(),
        status: status.to_string(),
        answer: answer.chars().take(200).collect(),
    }
}
