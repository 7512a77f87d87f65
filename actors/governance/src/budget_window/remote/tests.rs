#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use aa_budget::{Amount, Limits, Refused, Reservation, Span, Standing};
use aa_protocol::{ActionId, NanoUsd};

use super::*;
use crate::{
    budget_window::{Ask, Asked, WindowStatus},
    crossing::{Crossing, NOW, agent, reply_of},
};

fn id(number: u8) -> ReservationId {
    ReservationId { agent: agent(), action: ActionId::from_bytes([number; 16]) }
}

fn amount(cost: i64) -> Amount {
    Amount::new(NanoUsd(cost), u64::MAX).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_a_window_is_asked_and_answers_crosses_between_nodes() {
    let mut crossing = Crossing::new().await;
    let limits = Limits { cost: Some(NanoUsd(9)), tokens: None };
    let standing = Standing { posted: amount(1), reserved: amount(2), limits, resets_at: NOW };
    let asked = |number, outcome| Asked { id: id(number), outcome, standing, enforced: true };
    let held = Reservation { span: NOW, amount: amount(i64::MAX), expires_at: NOW };
    crossing
        .is_answered(
            |reply| {
                let ask = Ask { id: id(1), amount: amount(3), limits };
                let open = Ask { id: id(2), amount: Amount::ZERO, limits: Limits::default() };
                WindowMessage::Reserve(vec![ask, open], reply)
            },
            reply_of!(WindowMessage::Reserve(_, reply) => reply),
            [
                vec![asked(1, Ok(held)), asked(2, Err(Refused::OverLimit))],
                vec![asked(3, Err(Refused::TooManyOpen))],
                Vec::new(),
            ],
        )
        .await;
    crossing
        .is_answered(
            |reply| {
                let post = (id(1), Settlement::Post(amount(4)));
                WindowMessage::Settle(vec![post, (id(2), Settlement::Void)], reply)
            },
            reply_of!(WindowMessage::Settle(_, reply) => reply),
            [()],
        )
        .await;
    let span = Span {
        start: NOW,
        end: NOW,
        posted: amount(1),
        reserved: amount(2),
        open: 3,
        estimated: amount(4),
        overrun: Amount::ZERO,
        refused: 6,
        alerted: 7,
    };
    crossing
        .is_answered(
            WindowMessage::Read,
            reply_of!(WindowMessage::Read(reply) => reply),
            [WindowStatus { span, limits }, WindowStatus { span, limits: Limits::default() }],
        )
        .await;
}
