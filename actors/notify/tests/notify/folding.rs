//! A storm is told in a few messages, and nothing is lost.

use std::{collections::BTreeSet, time::Duration};

use aa_notify::{
    Event, Folder, Message,
    fold::{MAX_STATE_BYTES, MAX_WINDOWS},
};
use aa_protocol::{AgentId, ApprovalId, Timestamp};
use proptest::prelude::*;
use uuid::Uuid;

use crate::fixture::{NOW, approval_needed, id, violation};

const WINDOW: Duration = Duration::from_secs(60);

fn after(seconds: u64) -> Timestamp {
    NOW.saturating_add(Duration::from_secs(seconds))
}

#[test]
fn the_first_goes_out_at_once_and_the_rest_as_one() {
    let mut folder = Folder::new();
    let first = folder.offer(&violation(1, "bash", NOW), NOW, WINDOW);
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].id.as_str(), first[0].folded), (id(1).to_string().as_str(), None));
    assert_eq!(folder.next_due(), None, "nobody waits for anything");
    for second in 1..=412 {
        let at = NOW.saturating_add(Duration::from_millis(second * 100));
        let number = 1 + u128::from(second);
        assert!(folder.offer(&violation(number, "bash", at), at, WINDOW).is_empty());
    }
    assert_eq!((folder.next_due(), folder.waiting()), (Some(after(60)), 412));
    assert!(folder.due(after(59)).is_empty());
    // What was counted outlives a restart.
    let stored = serde_json::to_string(&folder).unwrap();
    let mut folder: Folder = serde_json::from_str(&stored).unwrap();
    let summaries = folder.due(after(60));
    let [summary] = summaries.as_slice() else { panic!("one summary, not {summaries:?}") };
    let folded = summary.folded.unwrap();
    assert_eq!((folded.count, summary.told()), (412, 412));
    assert_eq!(folded.first, NOW.saturating_add(Duration::from_millis(100)));
    assert_eq!(folded.last, NOW.saturating_add(Duration::from_millis(41_200)));
    assert_eq!(summary.id, format!("{}-more", id(413)));
    assert!(
        summary.headline().starts_with("412 more like it in 41 s: agent "),
        "{}",
        summary.headline()
    );
    assert_eq!(folder.offer(&violation(500, "bash", after(61)), after(61), WINDOW).len(), 1);
}

#[test]
fn other_tools_agents_and_policies_are_told_apart() {
    let mut folder = Folder::new();
    let bash = violation(1, "bash", NOW);
    let others = [
        violation(2, "mail", NOW),
        Event { id: id(3), agent: Some(AgentId::from_uuid(Uuid::from_u128(77))), ..bash.clone() },
        Event { id: id(4), policy: Some("other".to_owned()), ..bash.clone() },
    ];
    for event in std::iter::once(&bash).chain(&others) {
        assert_eq!(folder.offer(event, NOW, WINDOW).len(), 1);
    }
}

#[test]
fn requests_for_approval_are_never_folded_even_in_a_storm() {
    let mut folder = Folder::new();
    for number in 0..2 * MAX_WINDOWS as u128 {
        folder.offer(&violation(number, &format!("tool-{number}"), NOW), NOW, WINDOW);
    }
    for number in 0..100 {
        let approval = Some(ApprovalId::from_uuid(Uuid::from_u128(number)));
        let event = Event { id: id(1_000 + number), approval, ..approval_needed() };
        let told = folder.offer(&event, NOW, WINDOW);
        assert_eq!((told.len(), told[0].event.approval), (1, approval));
    }
}

#[test]
fn without_a_window_everything_is_told() {
    let mut folder = Folder::new();
    for number in 0..10 {
        assert_eq!(folder.offer(&violation(number, "bash", NOW), NOW, Duration::ZERO).len(), 1);
    }
}

#[test]
fn past_the_bound_events_of_a_kind_are_taken_together() {
    let mut folder = Folder::new();
    let bound = MAX_WINDOWS as u128;
    let mut told = 0;
    for number in 0..bound + 100 {
        let event = violation(number, &format!("tool-{number}"), NOW);
        told += folder.offer(&event, NOW, WINDOW).len();
    }
    assert_eq!(told, MAX_WINDOWS + 1);
    let summaries = folder.due(after(60));
    let [summary] = summaries.as_slice() else { panic!("one summary, not {summaries:?}") };
    assert!(summary.folded.unwrap().mixed);
    assert_eq!(summary.event.agent, None, "they do not have it in common");
    assert_eq!(summary.headline(), "99 more events of the kind “violation” in 1 s");
}

#[test]
fn a_clock_set_back_keeps_nobody_waiting() {
    let mut folder = Folder::new();
    let late = after(1_000_000);
    for number in 0..3 {
        folder.offer(&violation(number, "bash", late), late, WINDOW);
    }
    let told = folder.offer(&violation(9, "bash", NOW), NOW, WINDOW);
    assert_eq!(told.iter().map(Message::told).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn the_stored_form_is_bounded_whatever_is_offered() {
    let mut folder = Folder::new();
    let nasty = "\"\\".repeat(2_000);
    for kind in aa_notify::EventKind::ALL {
        for number in 0..2 * MAX_WINDOWS as u128 {
            let base = violation(number, "bash", NOW);
            let agent = Some(AgentId::from_uuid(Uuid::from_u128(u128::MAX - number)));
            let event = Event { kind, agent, policy: Some(nasty.clone()), ..base };
            let event = Event { title: nasty.clone(), ..event }.with_agent(&nasty, Some(&nasty));
            folder.offer(&event, NOW, WINDOW);
            folder.offer(&event, NOW, WINDOW);
        }
    }
    let stored = serde_json::to_vec(&folder).unwrap();
    assert!(stored.len() <= MAX_STATE_BYTES, "{}", stored.len());
}

proptest! {
    #[test]
    fn as_many_are_told_as_were_offered_and_the_first_of_a_sort_is_never_late(
        offers in prop::collection::vec((0_u8..80, 0_u64..40, any::<bool>()), 0..300),
        window in 0_u64..90,
    ) {
        let window = Duration::from_secs(window);
        let mut folder = Folder::new();
        let (mut now, mut told, mut ids, mut known) = (NOW, 0, BTreeSet::new(), BTreeSet::new());
        for (number, (sort, pause, wake)) in offers.iter().enumerate() {
            now = now.saturating_add(Duration::from_secs(*pause));
            if *wake {
                for message in folder.due(now) {
                    told += message.told();
                    prop_assert!(ids.insert(message.id));
                }
            }
            let event = violation(number as u128, &format!("tool-{sort}"), now);
            let messages = folder.offer(&event, now, window);
            // As long as there are not too many sorts, none waits for its first.
            if known.insert(*sort) && known.len() <= MAX_WINDOWS {
                prop_assert!(messages.iter().any(|message| message.event.id == event.id));
            }
            for message in messages {
                told += message.told();
                prop_assert!(ids.insert(message.id), "each message has its own id");
            }
            let late = folder.next_due().is_some_and(|at| at <= now || at > now.saturating_add(window));
            prop_assert!(!late);
        }
        told += folder.drain().iter().map(Message::told).sum::<u64>();
        prop_assert_eq!(told, offers.len() as u64);
        prop_assert_eq!(folder.waiting(), 0);
    }
}
