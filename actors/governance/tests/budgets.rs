//! What an agent, its team and its operator can rely on where money is limited.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::time::Duration;

use aa_budget::{Limits, Period};
use aa_governance::{
    agent::{AgentKeyId, Answer, Basis, Charge},
    budget_book::{BudgetError, BudgetTerms, OnExceeded},
    prices::PriceTerms,
    spender::Spender,
};
use aa_ledger::Kind;
use aa_protocol::{ActionId, NanoUsd, ReasonCode, Verdict};
use aa_store::Fault as StoreFault;
use futures::future::join_all;
use world::{BASH, World};

const TEN_CENTS_A_DAY: &str = "\
apiVersion: agent-assembly/v1
kind: Policy
metadata: {name: frugal, version: '1'}
spec:
  budget: {daily_limit_usd: 0.10}
";

/// A model at a dollar per thousand tokens of prompt and of answer: a call of `tokens` output tokens and a short prompt.
fn call(output: u64) -> String {
    format!(
        r#"{{"kind":"llm_call","model":"test-model","messages":[],"max_output_tokens":{output}}}"#
    )
}

fn result(call: u128, tokens: u64) -> String {
    let id = ActionId::from_bytes(call.to_be_bytes());
    format!(
        r#"{{"kind":"llm_result","model":"test-model","content":"x","call":"{id}","usage":{{"input_tokens":0,"output_tokens":{tokens}}}}}"#
    )
}

fn ended(call: u128, end: &str, content: &str) -> String {
    let id = ActionId::from_bytes(call.to_be_bytes());
    format!(
        r#"{{"kind":"llm_result","model":"test-model","content":"{content}","call":"{id}","end":"{end}"}}"#
    )
}

/// A tenth of a cent per token of answer; prompts are free, so that amounts are round.
async fn world() -> World {
    let world = World::new().await;
    let prices = serde_json::json!({"overrides": [
        {"model": "test-model", "price": {"input": "0", "output": "1000"}},
    ]});
    let terms: PriceTerms = serde_json::from_value(prices).unwrap();
    world.governance.set_prices(&world.permit(), terms).await.unwrap();
    world
}

fn cents(cents: f64) -> NanoUsd {
    NanoUsd::from_usd(cents / 100.0).unwrap()
}

fn team(cost: f64, period: Period) -> BudgetTerms {
    BudgetTerms {
        spender: Spender::Team("platform".into()),
        period,
        limits: Limits::of_cost(NanoUsd::from_usd(cost).unwrap()),
        action: OnExceeded::Deny,
        alert_at: None,
    }
}

async fn set(world: &World, terms: BudgetTerms) {
    world.governance.set_budget(&world.permit(), terms).await.unwrap();
}

fn verdict(answer: &Answer) -> (Verdict, ReasonCode) {
    (answer.decision.verdict, answer.decision.reasons[0].code)
}

async fn allowed(world: &World, agent: &AgentKeyId, action: u128, output: u64) {
    let answer = world.check(agent, action, &call(output)).await.unwrap();
    assert_eq!(answer.decision.verdict, Verdict::Allow, "{:?}", answer.decision);
}

async fn team_spent(world: &World) -> (NanoUsd, NanoUsd) {
    let budgets = world.governance.budgets(&world.permit(), None, 10).await.unwrap();
    let span = budgets[0].span;
    (span.posted.cost(), span.reserved.cost())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_refused_once_its_daily_budget_is_spoken_for() {
    let world = world().await;
    let agent = world.register("a").await;
    world.apply(TEN_CENTS_A_DAY).await;
    allowed(&world, &agent, 1, 60).await;
    let refused = world.check(&agent, 2, &call(50)).await.unwrap();
    assert_eq!(verdict(&refused), (Verdict::Deny, ReasonCode::BudgetExceeded));
    let reason = &refused.decision.reasons[0];
    assert_eq!((reason.policy.as_deref(), reason.line), (Some("frugal"), Some(5)));
    let budget = reason.budget.as_deref().unwrap();
    assert_eq!((budget.spent, budget.reserved), (NanoUsd::ZERO, cents(6.0)));
    assert_eq!((budget.limit, &*budget.window), (Some(cents(10.0)), "daily"));
    assert_eq!(budget.resets_at.to_string(), "2026-11-24T00:00:00.000000Z");

    // What the call did not use is there again.
    let settled = world.check(&agent, 3, &result(1, 20)).await.unwrap();
    let Some(Charge::Settled { amount, basis }) = settled.charge else { panic!("{settled:?}") };
    assert_eq!((amount.cost(), basis), (cents(2.0), Basis::Usage));
    allowed(&world, &agent, 4, 80).await;
    assert_eq!(world.check(&agent, 5, BASH).await.unwrap().decision.verdict, Verdict::Allow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_day_begins_with_the_whole_budget() {
    let world = world().await;
    let agent = world.register("a").await;
    world.apply(TEN_CENTS_A_DAY).await;
    allowed(&world, &agent, 1, 100).await;
    world.check(&agent, 2, &result(1, 100)).await.unwrap();
    let refused = world.check(&agent, 3, &call(1)).await.unwrap();
    assert_eq!(refused.decision.verdict, Verdict::Deny);
    world.clock.advance(Duration::from_secs(12 * 3_600));
    allowed(&world, &agent, 4, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_of_a_call_is_paid_once() {
    let world = world().await;
    let agent = world.register("a").await;
    set(&world, team(1.0, Period::Daily)).await;
    allowed(&world, &agent, 1, 100).await;
    assert!(world.check(&agent, 1, &call(100)).await.unwrap().repeated);
    // So is one that was sent again before the first was answered.
    let again = call(100);
    let both = join_all([world.check(&agent, 2, &again), world.check(&agent, 2, &again)]);
    let both: Vec<_> = both.await.into_iter().map(Result::unwrap).collect();
    assert_eq!(both[0].event, both[1].event);
    assert_eq!(team_spent(&world).await, (NanoUsd::ZERO, cents(20.0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_posted_once_and_a_second_one_is_told_so() {
    let world = world().await;
    let agent = world.register("a").await;
    set(&world, team(1.0, Period::Daily)).await;
    allowed(&world, &agent, 1, 100).await;
    world.check(&agent, 2, &result(1, 40)).await.unwrap();
    assert!(world.check(&agent, 2, &result(1, 40)).await.unwrap().repeated);
    let second = world.check(&agent, 3, &result(1, 90)).await.unwrap();
    assert_eq!(second.charge, Some(Charge::NotOpen));
    let unknown = world.check(&agent, 4, &result(77, 90)).await.unwrap();
    assert_eq!(unknown.charge, Some(Charge::NotOpen));
    let other = world.register("b").await;
    let foreign = world.check(&other, 5, &result(1, 90)).await.unwrap();
    assert_eq!(foreign.charge, Some(Charge::NotOpen));
    assert_eq!(team_spent(&world).await, (cents(4.0), NanoUsd::ZERO));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_cut_off_posts_what_was_produced_or_the_reservation() {
    let world = world().await;
    let agent = world.register("a").await;
    set(&world, team(10.0, Period::Daily)).await;
    for number in [1, 2, 3] {
        allowed(&world, &agent, number, 100).await;
    }
    let charge = |answer: Answer| match answer.charge {
        Some(Charge::Settled { amount, basis }) => (amount.cost(), basis),
        other => panic!("{other:?}"),
    };
    let produced = world.check(&agent, 11, &ended(1, "cut_off", "one two")).await.unwrap();
    let (cost, basis) = charge(produced);
    assert_eq!(basis, Basis::Produced);
    assert!(cost > NanoUsd::ZERO && cost <= cents(1.0), "{cost}");
    let unknown = world.check(&agent, 12, &ended(2, "cut_off", "")).await.unwrap();
    assert_eq!(charge(unknown), (cents(10.0), Basis::Reservation));
    let free = world.check(&agent, 13, &ended(3, "not_charged", "")).await.unwrap();
    assert_eq!(charge(free), (NanoUsd::ZERO, Basis::NotCharged));
    let (posted, reserved) = team_spent(&world).await;
    assert_eq!((posted, reserved), (NanoUsd(cost.0 + cents(10.0).0), NanoUsd::ZERO));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_is_charged_what_was_reserved() {
    let world = world().await;
    let agent = world.register("a").await;
    set(&world, team(1.0, Period::Daily)).await;
    allowed(&world, &agent, 1, 70).await;
    world.clock.advance(Duration::from_secs(3_601));
    assert_eq!(team_spent(&world).await, (cents(7.0), NanoUsd::ZERO));
    let entries = world.verified_entries().await;
    let expired = entries.iter().find(|entry| {
        entry.kind == Kind::Budget && entry.detail.get("change").is_some_and(|c| c == "expired")
    });
    let detail = &expired.expect("what expires is in the log").detail;
    assert_eq!(detail["posted_nano_usd"], cents(7.0).0.to_string());
    assert_eq!(detail["agent"], agent.agent.to_string());
    let late = world.check(&agent, 2, &result(1, 10)).await.unwrap();
    let Some(Charge::Settled { .. } | Charge::NotOpen) = late.charge else { panic!("{late:?}") };
    assert_eq!(team_spent(&world).await, (cents(7.0), NanoUsd::ZERO), "nothing is taken back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_agents_at_once_never_overspend_their_team() {
    let world = world().await;
    set(&world, team(1.0, Period::Hourly)).await;
    let mut agents = Vec::new();
    for number in 0..20 {
        agents.push(world.register(&format!("a{number}")).await);
    }
    let text = call(70);
    let checks = agents
        .iter()
        .flat_map(|agent| (0..5).map(move |number| (agent, number)))
        .map(|(agent, number)| world.check(agent, number, &text));
    let answers: Vec<_> = join_all(checks).await.into_iter().map(Result::unwrap).collect();
    let passed = answers.iter().filter(|answer| answer.decision.verdict == Verdict::Allow).count();
    assert_eq!(passed, 14, "14 × 7 ¢ fit a dollar, and 15 do not");
    assert_eq!(team_spent(&world).await, (NanoUsd::ZERO, cents(98.0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_window_refuses_is_given_back_to_the_others() {
    let world = world().await;
    let agent = world.register("a").await;
    world.apply(TEN_CENTS_A_DAY).await;
    set(&world, team(1.0, Period::Daily)).await;
    let refused = world.check(&agent, 1, &call(110)).await.unwrap();
    assert_eq!(verdict(&refused), (Verdict::Deny, ReasonCode::BudgetExceeded));
    assert_eq!(team_spent(&world).await, (NanoUsd::ZERO, NanoUsd::ZERO));
    allowed(&world, &agent, 2, 100).await;
    assert_eq!(team_spent(&world).await, (NanoUsd::ZERO, cents(10.0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_suspends_refuses_everything_and_resumes_by_itself() {
    let world = world().await;
    let agent = world.register("a").await;
    let source = TEN_CENTS_A_DAY.replace("0.10}", "0.10, action_on_exceed: suspend}");
    world.apply(&source).await;
    allowed(&world, &agent, 1, 100).await;
    let refused = world.check(&agent, 2, &call(1)).await.unwrap();
    assert_eq!(verdict(&refused), (Verdict::Deny, ReasonCode::BudgetSuspended));
    let bash = world.check(&agent, 3, BASH).await.unwrap();
    assert_eq!(verdict(&bash), (Verdict::Deny, ReasonCode::BudgetSuspended));
    let status = world.governance.agent(&world.permit(), agent.agent).await.unwrap();
    let suspension = status.record.budget_suspension.expect("operators see it");
    assert_eq!(suspension.until.to_string(), "2026-11-24T00:00:00.000000Z");

    let world = world.restarted().await;
    let bash = world.check(&agent, 4, BASH).await.unwrap();
    assert_eq!(verdict(&bash), (Verdict::Deny, ReasonCode::BudgetSuspended), "after a restart too");
    world.clock.advance(Duration::from_secs(12 * 3_600));
    let bash = world.check(&agent, 5, BASH).await.unwrap();
    assert_eq!(bash.decision.verdict, Verdict::Allow);
    let status = world.governance.agent(&world.permit(), agent.agent).await.unwrap();
    assert_eq!(status.record.budget_suspension, None);
    let entries = world.verified_entries().await;
    let statuses: Vec<_> = entries
        .iter()
        .filter(|entry| entry.kind == Kind::Status)
        .map(|entry| (entry.detail["status"].as_str(), entry.detail["reason"].as_str()))
        .collect();
    assert_eq!(statuses, [("suspended", "budget"), ("active", "budget_reset")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_raises_a_suspending_budget_or_resumes_the_agent_lifts_the_suspension() {
    let world = world().await;
    let agent = world.register("a").await;
    let source = TEN_CENTS_A_DAY.replace("0.10}", "0.10, action_on_exceed: suspend}");
    world.apply(&source).await;
    allowed(&world, &agent, 1, 100).await;
    world.check(&agent, 2, &call(1)).await.unwrap();
    world.apply(&source.replace("0.10,", "0.20,")).await;
    allowed(&world, &agent, 3, 100).await;
    world.check(&agent, 4, &call(1)).await.unwrap();
    assert_eq!(world.check(&agent, 5, BASH).await.unwrap().decision.verdict, Verdict::Deny);
    let permit = world.permit();
    let resumed = world.governance.set_agent_status(&permit, agent.agent, false, String::new());
    assert_eq!(resumed.await.unwrap().budget_suspension, None);
    assert_eq!(world.check(&agent, 6, BASH).await.unwrap().decision.verdict, Verdict::Allow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reservations_and_spending_survive_a_restart() {
    let world = world().await;
    let agent = world.register("a").await;
    set(&world, team(1.0, Period::Monthly)).await;
    allowed(&world, &agent, 1, 300).await;
    allowed(&world, &agent, 2, 200).await;
    world.check(&agent, 3, &result(1, 100)).await.unwrap();
    let world = world.restarted().await;
    assert_eq!(team_spent(&world).await, (cents(10.0), cents(20.0)));
    world.check(&agent, 4, &result(2, 150)).await.unwrap();
    assert_eq!(team_spent(&world).await, (cents(25.0), NanoUsd::ZERO));
    assert_eq!(world.check(&agent, 5, &call(751)).await.unwrap().decision.verdict, Verdict::Deny);
    allowed(&world, &agent, 6, 750).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_without_a_price_is_refused_where_a_budget_applies_unless_a_fallback_is_stated() {
    let world = world().await;
    let agent = world.register("a").await;
    let unknown = r#"{"kind":"llm_call","model":"who-knows","messages":[],"max_output_tokens":50}"#;
    let unlimited = world.check(&agent, 1, unknown).await.unwrap();
    assert_eq!(unlimited.decision.verdict, Verdict::Allow, "nothing limits what it spends");
    set(&world, team(1.0, Period::Daily)).await;
    let refused = world.check(&agent, 2, unknown).await.unwrap();
    assert_eq!(verdict(&refused), (Verdict::Deny, ReasonCode::PriceUnknown));
    world.apply(TEN_CENTS_A_DAY).await;
    let refused = world.check(&agent, 3, unknown).await.unwrap();
    assert_eq!(verdict(&refused), (Verdict::Deny, ReasonCode::PriceUnknown));
    let terms = serde_json::json!({"unknown": {"fallback": {"input": "0", "output": "1000"}}});
    let terms: PriceTerms = serde_json::from_value(terms).unwrap();
    world.governance.set_prices(&world.permit(), terms).await.unwrap();
    let priced = world.check(&agent, 4, unknown).await.unwrap();
    assert_eq!(priced.decision.verdict, Verdict::Allow);
    assert_eq!(team_spent(&world).await, (NanoUsd::ZERO, cents(5.0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_of_tokens_needs_no_price() {
    let world = world().await;
    let agent = world.register("a").await;
    let limits = Limits { cost: None, tokens: Some(100) };
    set(&world, BudgetTerms { limits, ..team(1.0, Period::Daily) }).await;
    let unknown = |output| {
        format!(
            r#"{{"kind":"llm_call","model":"who-knows","messages":[],"max_output_tokens":{output}}}"#
        )
    };
    let fits = world.check(&agent, 1, &unknown(60)).await.unwrap();
    assert_eq!(fits.decision.verdict, Verdict::Allow);
    let refused = world.check(&agent, 2, &unknown(60)).await.unwrap();
    assert_eq!(verdict(&refused), (Verdict::Deny, ReasonCode::BudgetExceeded));
    let budget = refused.decision.reasons[0].budget.as_deref().unwrap();
    assert_eq!((budget.limit, budget.limit_tokens), (None, Some(100)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_only_alerts_refuses_nothing_and_tells_each_threshold_once() {
    let world = world().await;
    let agent = world.register("a").await;
    set(&world, BudgetTerms { action: OnExceeded::Alert, ..team(0.10, Period::Daily) }).await;
    for (number, tokens) in [(1, 40), (2, 20), (3, 60), (4, 60)] {
        allowed(&world, &agent, number, tokens).await;
        world.check(&agent, 100 + number, &result(number, tokens)).await.unwrap();
    }
    assert_eq!(team_spent(&world).await, (cents(18.0), NanoUsd::ZERO));
    let entries = world.verified_entries().await;
    let told: Vec<_> =
        entries.iter().filter_map(|entry| entry.detail.get("percent")).cloned().collect();
    assert_eq!(told, ["50", "100"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_lowered_below_what_is_spent_refuses_and_raised_again_admits() {
    let world = world().await;
    let agent = world.register("a").await;
    set(&world, team(1.0, Period::Daily)).await;
    allowed(&world, &agent, 1, 500).await;
    set(&world, team(0.3, Period::Daily)).await;
    let refused = world.check(&agent, 2, &call(1)).await.unwrap();
    assert_eq!(verdict(&refused), (Verdict::Deny, ReasonCode::BudgetExceeded));
    world.check(&agent, 3, &result(1, 500)).await.unwrap();
    assert_eq!(team_spent(&world).await, (cents(50.0), NanoUsd::ZERO), "what is spent is spent");
    set(&world, team(0.6, Period::Daily)).await;
    allowed(&world, &agent, 4, 100).await;
    world
        .governance
        .remove_budget(&world.permit(), Spender::Team("platform".into()), Period::Daily)
        .await
        .unwrap();
    allowed(&world, &agent, 5, 100_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_budgets_are_refused_by_name() {
    let world = world().await;
    let refused = async |terms: BudgetTerms| {
        let error = world.governance.set_budget(&world.permit(), terms).await.unwrap_err();
        match error {
            aa_governance::GovernanceError::Budget(error) => error,
            other => panic!("{other}"),
        }
    };
    let good = team(1.0, Period::Daily);
    let with = |limits: Limits| BudgetTerms { limits, ..good.clone() };
    assert_eq!(refused(with(Limits::default())).await, BudgetError::NoLimit);
    let negative = NanoUsd(-1);
    assert_eq!(
        refused(with(Limits::of_cost(negative))).await,
        BudgetError::CostNotPositive(negative)
    );
    assert_eq!(refused(with(Limits { cost: None, tokens: Some(0) })).await, BudgetError::NoTokens);
    for alerts in [vec![0], vec![101], vec![80, 50], vec![50, 50], vec![1; 9]] {
        let terms = BudgetTerms { alert_at: Some(alerts), ..good.clone() };
        assert_eq!(refused(terms).await, BudgetError::Thresholds);
    }
    let nobody = BudgetTerms { spender: Spender::Team("".into()), ..good.clone() };
    assert_eq!(refused(nobody).await, BudgetError::TeamName);
    let agent = Spender::Agent(world.id("a").agent);
    assert_eq!(refused(BudgetTerms { spender: agent, ..good }).await, BudgetError::OfAgent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_between_reserve_and_decision_loses_no_money() {
    let world = world().await;
    let agent = world.register("a").await;
    set(&world, team(1.0, Period::Daily)).await;
    let faults = [StoreFault::Conflict, StoreFault::UnknownApplied, StoreFault::UnknownLost];
    let mut number = 0;
    for fault in faults {
        // The first commit after it is the reservation, the second the decision; then those of the result.
        for earlier in 0..4 {
            number += 1;
            world.faults.script((0..earlier).map(|_| None).chain([Some(fault)]));
            let answer = world.check_again(&agent, number, &call(10)).await;
            assert_eq!(answer.decision.verdict, Verdict::Allow);
            let settled = world.check_again(&agent, 1_000 + number, &result(number, 10)).await;
            assert_eq!(settled.decision.verdict, Verdict::Allow);
        }
    }
    assert_eq!(team_spent(&world).await, (cents(12.0), NanoUsd::ZERO));
}

// --- The published ways in which gateways overspend -------------------------------------------------

/// Check, then increment: every check passes before the first increment. Here the check is the reservation; see also
/// `many_agents_at_once_never_overspend_their_team`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_calls_of_one_agent_passes_no_further_than_its_budget() {
    let world = world().await;
    let agent = world.register("a").await;
    world.apply(TEN_CENTS_A_DAY).await;
    let text = call(30);
    let checks = (0..50).map(|number| world.check(&agent, number, &text));
    let answers: Vec<_> = join_all(checks).await.into_iter().map(Result::unwrap).collect();
    let passed = answers.iter().filter(|answer| answer.decision.verdict == Verdict::Allow).count();
    assert_eq!(passed, 3);
}

/// Per-replica counting: each of N processes admits the whole budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_over_one_store_spend_one_budget() {
    let world = world().await;
    set(&world, team(1.0, Period::Daily)).await;
    let mut agents = Vec::new();
    for number in 0..6 {
        agents.push(world.register(&format!("a{number}")).await);
    }
    let text = call(70);
    let mut passed = 0;
    for round in 0..2_u128 {
        // Each takes the shards over from the other, which still answers until it learns of it.
        let other = world.beside().await;
        let checks = agents.iter().enumerate().flat_map(|(index, agent)| {
            let through = if (index + round as usize).is_multiple_of(2) { &world } else { &other };
            [
                through.check_again(agent, round * 2, &text),
                other.check_again(agent, round * 2 + 1, &text),
            ]
        });
        let answers = join_all(checks).await;
        passed += answers.iter().filter(|answer| answer.decision.verdict == Verdict::Allow).count();
        other.node.stop().await;
    }
    assert_eq!(passed, 14, "14 × 7 ¢ fit a dollar, whoever is asked");
    let third = world.beside().await;
    let budgets = third.governance.budgets(&third.permit(), None, 10).await;
    let span = budgets.unwrap()[0].span;
    assert_eq!((span.posted.cost(), span.reserved.cost()), (NanoUsd::ZERO, cents(98.0)));
}

/// A reservation that leaks when the request is cancelled: the client that gave up asks again, or says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_request_leaves_no_reservation_of_its_own() {
    let world = world().await;
    let agent = world.register("a").await;
    set(&world, team(1.0, Period::Daily)).await;
    let text = call(80);
    // Given up before the answer: the decision stands, under its id.
    let _ = tokio::time::timeout(Duration::ZERO, world.check(&agent, 1, &text)).await;
    let again = world.check(&agent, 1, &text).await.unwrap();
    assert_eq!(again.decision.verdict, Verdict::Allow);
    assert_eq!(team_spent(&world).await, (NanoUsd::ZERO, cents(8.0)), "once, not twice");
    world.check(&agent, 2, &ended(1, "not_charged", "")).await.unwrap();
    assert_eq!(team_spent(&world).await, (NanoUsd::ZERO, NanoUsd::ZERO));
}

/// A budget that is changed while calls are being paid: each is held against one limit, the old or the new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_is_lowered_while_calls_are_reserved_admits_nothing_more_once_it_is_in_force()
{
    let world = world().await;
    let agent = world.register("a").await;
    set(&world, team(2.0, Period::Daily)).await;
    let text = call(10);
    let checks = (0..120).map(|number| world.check(&agent, number, &text));
    let (answers, ()) = tokio::join!(join_all(checks), set(&world, team(0.5, Period::Daily)));
    let passed = answers.into_iter().map(Result::unwrap);
    let passed = passed.filter(|answer| answer.decision.verdict == Verdict::Allow).count();
    assert!((50..=120).contains(&passed), "{passed}");
    let (_, reserved) = team_spent(&world).await;
    assert_eq!(reserved, cents(passed as f64), "every call let go holds its reservation");
    let refused = world.check(&agent, 1_000, &text).await.unwrap();
    assert_eq!(verdict(&refused), (Verdict::Deny, ReasonCode::BudgetExceeded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_of_usage_that_contradicts_itself_is_charged_in_full() {
    let world = world().await;
    let agent = world.register("a").await;
    set(&world, team(1.0, Period::Daily)).await;
    allowed(&world, &agent, 1, 50).await;
    let id = ActionId::from_bytes(1_u128.to_be_bytes());
    let usage = format!(
        r#"{{"kind":"llm_result","model":"test-model","content":"x","call":"{id}","usage":{{"input_tokens":1,"output_tokens":1,"cached_input_tokens":9}}}}"#
    );
    let settled = world.check(&agent, 2, &usage).await.unwrap();
    let Some(Charge::Settled { amount, basis }) = settled.charge else { panic!("{settled:?}") };
    assert_eq!((amount.cost(), basis), (cents(5.0), Basis::Reservation));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_beyond_what_can_be_counted_is_charged_in_full() {
    let world = world().await;
    let agent = world.register("a").await;
    set(&world, team(1.0, Period::Daily)).await;
    allowed(&world, &agent, 1, 50).await;
    let settled = world.check(&agent, 2, &result(1, u64::MAX)).await.unwrap();
    let Some(Charge::Settled { amount, basis }) = settled.charge else { panic!("{settled:?}") };
    assert_eq!((amount.cost(), basis), (cents(5.0), Basis::Reservation));
    let endless = world.check(&agent, 3, &call(u64::MAX)).await.unwrap();
    assert_eq!(verdict(&endless), (Verdict::Deny, ReasonCode::BudgetExceeded));
}
