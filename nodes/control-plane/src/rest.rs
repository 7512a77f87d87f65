//! The operator API: REST over HTTPS under `/api/v1`, described by the OpenAPI document it serves.
//!
//! It refuses to know how connections come in, and every rule of the product: a handler reads the
//! request, asks [`Governance`] with the permit its caller holds, and writes the answer down. Whatever goes
//! wrong leaves as a problem document (RFC 9457).

#![allow(
    unused_qualifications,
    reason = "`utoipa::path` qualifies the parameter types it is given"
)]

pub mod agents;
pub mod alerts;
pub mod approvals;
pub mod approvers;
pub mod audit;
mod backup;
pub mod budgets;
pub mod cluster;
pub mod health;
pub mod keys;
pub mod metrics;
pub mod policies;
pub mod prices;
pub mod problem;
pub mod secrets;
mod slack;
pub mod spending;
mod streamed;
pub mod usd;

mod access;
mod guard;
mod input;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use aa_governance::Governance;
use aa_protocol::Timestamp;
use aa_relay::GrpcTransport;
use axum::{Router, middleware};
use tokio::sync::Semaphore;
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder,
    security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::problem::DIFFERENT_VERSIONS;
pub use self::problem::Problem;
use crate::throttle::FailureThrottle;

/// Where the API lives.
pub const BASE_PATH: &str = "/api/v1";

/// What the API says of the program that serves it.
#[derive(Clone, Copy, Debug)]
pub struct ApiInfo {
    /// The program's version, such as `0.1.0`.
    pub version: &'static str,
}

/// What the API is made of.
pub struct Api {
    /// What is operated.
    pub governance: Governance,
    /// Counts failed authentications.
    pub throttle: Arc<FailureThrottle>,
    /// What carries calls to other nodes, where there are any.
    pub links: Option<Arc<GrpcTransport>>,
}

/// What every handler has.
pub(crate) struct ApiState {
    pub(crate) governance: Governance,
    pub(crate) info: ApiInfo,
    pub(crate) links: Option<Arc<GrpcTransport>>,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) exports: Arc<Semaphore>,
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) throttle: Arc<FailureThrottle>,
}

/// Where a request came from; its connection puts it among the request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub IpAddr);

/// Requests answered at a time; past it, callers are told to come back.
const MAX_REQUESTS: usize = 256;

/// Exports streamed at a time, so that slow readers cannot hold the store's attention.
const MAX_EXPORTS: usize = 16;

/// Policy documents taken in at a time. A workspace's are checked one after the other, and each may have
/// 1 MiB.
const MAX_UPLOADS: usize = 8;

/// The API as a service. Serve it over TLS only, with a [`PeerAddress`] on every request: failed authentications are
/// counted by it.
pub fn router(api: Api, info: ApiInfo) -> Router {
    service(Arc::new(ApiState::new(api, info)))
}

impl ApiState {
    fn new(api: Api, info: ApiInfo) -> Self {
        let Api { governance, throttle, links } = api;
        Self {
            governance,
            info,
            links,
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            exports: Arc::new(Semaphore::new(MAX_EXPORTS)),
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
            throttle,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.governance.services().clock.now()
    }
}

fn service(state: Arc<ApiState>) -> Router {
    let (router, document) = described(state.info).split_for_parts();
    let document: bytes::Bytes = document.to_json().unwrap_or_default().into();
    let serve_document = move || {
        let document = document.clone();
        async move { ([(axum::http::header::CONTENT_TYPE, "application/json")], document) }
    };
    router
        .route("/api/v1/openapi.json", axum::routing::get(serve_document))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), guard::guard))
        .with_state(state)
}

/// The OpenAPI 3.1 document of the API.
pub fn openapi(info: ApiInfo) -> OpenApi {
    described(info).into_openapi()
}

fn described(info: ApiInfo) -> OpenApiRouter<Arc<ApiState>> {
    let routes = OpenApiRouter::default()
        .routes(routes!(health::get_health))
        .routes(routes!(metrics::get_metrics))
        .routes(routes!(policies::list_policies, policies::apply_policy))
        .routes(routes!(policies::get_policy, policies::remove_policy))
        .routes(routes!(policies::get_policy_source))
        .routes(routes!(policies::get_policy_history))
        .routes(routes!(policies::roll_back_policy))
        .routes(routes!(agents::list_agents))
        .routes(routes!(agents::get_agent))
        .routes(routes!(agents::suspend_agent))
        .routes(routes!(agents::resume_agent))
        .routes(routes!(spending::get_agent_spending))
        .routes(routes!(budgets::list_budgets))
        .routes(routes!(
            budgets::get_team_budget,
            budgets::set_team_budget,
            budgets::remove_team_budget
        ))
        .routes(routes!(
            budgets::get_workspace_budget,
            budgets::set_workspace_budget,
            budgets::remove_workspace_budget
        ))
        .routes(routes!(prices::get_prices, prices::set_prices))
        .routes(routes!(approvals::list_approvals))
        .routes(routes!(approvals::get_approval))
        .routes(routes!(approvals::approve))
        .routes(routes!(approvals::deny))
        .routes(routes!(approvals::propose_rules))
        .routes(routes!(approvers::get_approvers))
        .routes(routes!(approvers::set_group, approvers::remove_group))
        .routes(routes!(approvers::set_team_chain, approvers::remove_team_chain))
        .routes(routes!(approvers::set_workspace_chain, approvers::remove_workspace_chain))
        .routes(routes!(audit::list_entries))
        .routes(routes!(audit::tail_entries))
        .routes(routes!(audit::export_entries))
        .routes(routes!(audit::get_checkpoint))
        .routes(routes!(audit::get_log_keys))
        .routes(routes!(backup::back_up_workspace))
        .routes(routes!(alerts::get_alerts))
        .routes(routes!(alerts::set_destination, alerts::remove_destination))
        .routes(routes!(alerts::test_destination))
        .routes(routes!(alerts::set_rule, alerts::remove_rule))
        .routes(routes!(alerts::list_dead_letters))
        .routes(routes!(alerts::replay_dead_letters))
        .routes(routes!(alerts::discard_dead_letters))
        .routes(routes!(slack::take_interaction))
        .routes(routes!(secrets::list_secrets))
        .routes(routes!(secrets::set_secret, secrets::delete_secret))
        .routes(routes!(secrets::withdraw_secret))
        .routes(routes!(secrets::rotate_data_key))
        .routes(routes!(secrets::rotate_master_key))
        .routes(routes!(keys::list_keys, keys::create_key))
        .routes(routes!(keys::revoke_key))
        .routes(routes!(cluster::get_cluster))
        .routes(routes!(cluster::list_nodes))
        .routes(routes!(cluster::list_shards))
        .routes(routes!(cluster::drain_node))
        .routes(routes!(cluster::undrain_node))
        .routes(routes!(cluster::move_shard));
    OpenApiRouter::with_openapi(preamble(info)).nest(BASE_PATH, routes)
}

fn preamble(info: ApiInfo) -> OpenApi {
    let about = InfoBuilder::new()
        .title("Agent Assembly operator API")
        .version(info.version)
        .description(Some(
            "Policies, agents, budgets, prices, approvals, alerts, secrets, audit log and API keys of one workspace: \
             the one the presented key belongs to; and the cluster, for keys of the deployment's home workspace. Errors are problem documents (RFC 9457).",
        ))
        .license(Some(
            LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build(),
        ))
        .build();
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("aak_<id>_<secret>")
        .description(Some("An API key of the workspace."))
        .build();
    let components =
        ComponentsBuilder::new().security_scheme("api_key", SecurityScheme::Http(key)).build();
    OpenApiBuilder::new().info(about).components(Some(components)).build()
}
