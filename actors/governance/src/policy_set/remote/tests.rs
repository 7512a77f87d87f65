#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use aa_budget::Limits;
use aa_policy::Diagnostic;
use aa_pricing::{ModelPrice, PriceError, PriceOverride, Rate, UnknownModel};
use aa_protocol::NanoUsd;
use bytes::Bytes;

use super::*;
use crate::{
    approvers::{ApprovalChain, ApproverGroup, ApproversError, Stage},
    budget_book::{BudgetError, BudgetRecord, BudgetTerms, OnExceeded},
    crossing::{Crossing, NOW, agent, reply_of},
    policy_record::{PolicyHeader, PolicyRevision},
    policy_set::{Applied, PolicyError, Removal, Rollback, Upload},
    prices::{PriceRecord, PriceTerms, PricesError},
};

fn name() -> String {
    "starter".to_owned()
}

fn actor() -> String {
    "key:k".to_owned()
}

/// Every kind of finding there is.
fn findings() -> Vec<Diagnostic> {
    let kinds = aa_policy::DiagnosticCode::ALL.iter().zip(1_u32..);
    let finding = |(code, line): (&aa_policy::DiagnosticCode, u32)| Diagnostic {
        code: *code,
        path: "spec.tools".to_owned(),
        line,
        column: 2,
        message: "what is wrong".to_owned(),
        source_line: (line % 2 == 0).then(|| "tools: ü".to_owned()),
        help: (line % 3 == 0).then(|| "write this".to_owned()),
    };
    kinds.map(finding).collect()
}

fn applied() -> Vec<Result<Applied, PolicyError>> {
    let revision = PolicyRevision {
        name: name(),
        revision: 3,
        version: Some("1.2".to_owned()),
        description: None,
        scope: "team:platform".to_owned(),
        applied_at: NOW,
        applied_by: actor(),
        rollback_of: Some(1),
        sha256: "00".repeat(32),
        bytes: 9,
        warnings: 2,
    };
    let applied = Applied { revision, warnings: findings(), changed: true };
    [Ok(applied)].into_iter().chain(refusals().map(Err)).collect()
}

fn refusals() -> [PolicyError; 6] {
    [
        PolicyError::Invalid { errors: findings(), warnings: findings() },
        PolicyError::Unknown(name()),
        PolicyError::UnknownRevision { name: name(), revision: 9, latest: 3 },
        PolicyError::NoEarlier(name()),
        PolicyError::TooMany,
        PolicyError::Unreadable("the store is away".to_owned()),
    ]
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_about_policies_crosses_between_nodes() {
    let mut crossing = Crossing::new().await;
    for dry_run in [true, false] {
        crossing
            .is_answered(
                |reply| {
                    let source = Bytes::from_static(b"no text: \xff\x00");
                    let upload = Upload { source, fallback_name: name(), actor: actor(), dry_run };
                    PolicySetMessage::Apply(upload, reply)
                },
                reply_of!(PolicySetMessage::Apply(_, reply) => reply),
                applied(),
            )
            .await;
    }
    for to in [None, Some(u64::MAX)] {
        crossing
            .is_answered(
                |reply| {
                    let rollback = Rollback { name: name(), to, actor: actor() };
                    PolicySetMessage::Rollback(rollback, reply)
                },
                reply_of!(PolicySetMessage::Rollback(_, reply) => reply),
                applied(),
            )
            .await;
    }
    let headers = [None, Some(2)].map(|active| Ok(PolicyHeader { active, latest: 3 })).into_iter();
    crossing
        .is_answered(
            |reply| PolicySetMessage::Remove(Removal { name: name(), actor: actor() }, reply),
            reply_of!(PolicySetMessage::Remove(_, reply) => reply),
            headers.chain(refusals().map(Err)),
        )
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_about_money_crosses_between_nodes() {
    let mut crossing = Crossing::new().await;
    let limits = Limits { cost: Some(NanoUsd(1)), tokens: Some(u64::MAX) };
    let spenders =
        [Spender::Agent(agent()), Spender::Team("ü".into()), Spender::Workspace].into_iter();
    for (spender, period) in spenders.zip(Period::ALL) {
        let record = || {
            let spender = spender.clone();
            let (action, alert_at) = (OnExceeded::Alert, vec![50, 100]);
            let (updated_at, updated_by) = (NOW, actor());
            BudgetRecord { spender, period, limits, action, alert_at, updated_at, updated_by }
        };
        let refusals = || {
            [
                BudgetError::NoLimit,
                BudgetError::CostNotPositive(NanoUsd(-1)),
                BudgetError::NoTokens,
                BudgetError::Thresholds,
                BudgetError::TeamName,
                BudgetError::OfAgent,
                BudgetError::TooMany,
                BudgetError::Unknown { spender: spender.clone(), period },
            ]
        };
        let answers = || [Ok(record())].into_iter().chain(refusals().map(Err));
        for alert_at in [None, Some(vec![1, 2])] {
            crossing
                .is_answered(
                    |reply| {
                        let (spender, alert_at) = (spender.clone(), alert_at.clone());
                        let action = OnExceeded::Deny;
                        let terms = BudgetTerms { spender, period, limits, action, alert_at };
                        let message = MoneyMessage::SetBudget(terms, actor(), reply);
                        PolicySetMessage::Money(message)
                    },
                    reply_of!(PolicySetMessage::Money(MoneyMessage::SetBudget(_, _, reply)) => reply),
                    answers(),
                )
                .await;
        }
        crossing
            .is_answered(
                |reply| {
                    let message =
                        MoneyMessage::RemoveBudget(spender.clone(), period, actor(), reply);
                    PolicySetMessage::Money(message)
                },
                reply_of!(
                    PolicySetMessage::Money(MoneyMessage::RemoveBudget(_, _, _, reply)) => reply
                ),
                answers(),
            )
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_about_prices_crosses_between_nodes() {
    let mut crossing = Crossing::new().await;
    let rate = |nanos| Rate::from_nanos(nanos).unwrap();
    let price = ModelPrice {
        input: rate(1),
        cached_input: Some(rate(150_000_000)),
        cache_write: None,
        output: rate(2_500_000_001),
        context_window: Some(1),
        max_output_tokens: None,
        image_tokens: Some(u64::MAX),
    };
    let family = Some(aa_pricing::Family::Other);
    let known = PriceOverride { model: "m*".to_owned(), price: price.clone(), family };
    let other = PriceOverride { family: None, ..known.clone() };
    let all = [
        PriceTerms::default(),
        PriceTerms { overrides: vec![known, other], unknown: UnknownModel::Fallback(price) },
    ];
    let model = || "m".to_owned();
    for terms in all {
        let record = PriceRecord { terms: terms.clone(), updated_at: NOW, updated_by: actor() };
        let refusals = [
            PricesError::Override(PriceError::TooMany(1)),
            PricesError::Override(PriceError::Unnamed { index: 1 }),
            PricesError::Override(PriceError::NameTooLong { index: 1, bytes: 2 }),
            PricesError::Override(PriceError::NotAName { index: 1, model: model() }),
            PricesError::Override(PriceError::MisplacedStar { index: 1, model: model() }),
            PricesError::Override(PriceError::EveryModel { index: 1 }),
            PricesError::Override(PriceError::Duplicate { index: 1, model: model() }),
            PricesError::TooLarge(9),
        ];
        crossing
            .is_answered(
                |reply| {
                    let message = MoneyMessage::SetPrices(terms.clone(), actor(), reply);
                    PolicySetMessage::Money(message)
                },
                reply_of!(PolicySetMessage::Money(MoneyMessage::SetPrices(_, _, reply)) => reply),
                [Ok(record)].into_iter().chain(refusals.map(Err)),
            )
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_about_approvers_crosses_between_nodes() {
    let mut crossing = Crossing::new().await;
    let group =
        || ApproverGroup { name: "ops".to_owned(), members: vec!["k".to_owned()], needed: 2 };
    let chain = || {
        let stage = Stage { group: String::new(), needed: 1, share: 100 };
        ApprovalChain { team: "t".to_owned(), stages: vec![stage] }
    };
    let refusals = || {
        [
            ApproversError::Name("ü".to_owned()),
            ApproversError::TooMany { what: "groups".into(), count: 2, most: 1 },
            ApproversError::Quorum { needed: 2, members: 1 },
            ApproversError::NoStage,
            ApproversError::Shares(99),
            ApproversError::Unknown { what: "group".into(), name: "ops".to_owned() },
            ApproversError::NoWorkspaceChain,
        ]
    };
    let groups = || [Ok(group())].into_iter().chain(refusals().map(Err));
    let chains = || [Ok(chain())].into_iter().chain(refusals().map(Err));
    let message = PolicySetMessage::Approvers;
    crossing
        .is_answered(
            |reply| message(ApproversMessage::SetGroup(group(), actor(), reply)),
            reply_of!(PolicySetMessage::Approvers(ApproversMessage::SetGroup(_, _, reply)) => reply),
            groups(),
        )
        .await;
    crossing
        .is_answered(
            |reply| message(ApproversMessage::RemoveGroup(name(), actor(), reply)),
            reply_of!(
                PolicySetMessage::Approvers(ApproversMessage::RemoveGroup(_, _, reply)) => reply
            ),
            groups(),
        )
        .await;
    crossing
        .is_answered(
            |reply| message(ApproversMessage::SetChain(chain(), actor(), reply)),
            reply_of!(PolicySetMessage::Approvers(ApproversMessage::SetChain(_, _, reply)) => reply),
            chains(),
        )
        .await;
    crossing
        .is_answered(
            |reply| message(ApproversMessage::RemoveChain(name(), actor(), reply)),
            reply_of!(
                PolicySetMessage::Approvers(ApproversMessage::RemoveChain(_, _, reply)) => reply
            ),
            chains(),
        )
        .await;
}
