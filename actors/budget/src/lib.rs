//! What a budget window holds, and the only ways in which it changes.
//!
//! A call of a model is paid for in two phases, after TigerBeetle's two-phase transfers. Before it,
//! [`Window::reserve`] sets aside the most it can cost; after it, [`Window::post`] replaces that by what it did
//! cost, or [`Window::void`] gives it back. A reservation that nobody settles in time is posted at its full amount
//! ([`Window::expire`]), because a call that was let go may have cost all of it. So in every state
//!
//! > `posted − overrun + reserved ≤ limit`
//!
//! for the limit that stood when the latest reservation was made, where the overrun is what providers reported
//! beyond the reservation; and every amount reserved ends posted, voided or expired, exactly once.
//!
//! A window is one [`Calendar`] of one spender, such as the days of an agent in New York. It holds a [`Span`] for the
//! present day and one for each earlier day in which a reservation is still open: what was reserved on a day is
//! settled on that day.
//!
//! This crate is pure: it reads no clock, stores nothing, and knows neither prices nor policies. Who keeps a window
//! passes in the time and the limits of the moment and makes the new state durable before it answers.

mod amount;
mod calendar;
mod window;

pub use self::{
    amount::{Amount, Limits, OutOfRange},
    calendar::{Calendar, Period},
    window::{
        Inconsistent, MAX_OPEN, Posted, Refused, Reservation, ReservationId, Span, Standing, Window,
    },
};
