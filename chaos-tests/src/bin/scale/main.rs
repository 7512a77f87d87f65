//! Whether size changes anything: `scale [drift [DECISIONS [AGENTS [IN_FLIGHT]]]]`, `scale crowd [REGISTERED
//! [ACTIVE [SECONDS]]]`; without arguments both, at 10⁷ decisions and at 10⁶ agents of which 10⁵ are active.
//!
//! `drift` sends decisions through sessions and prints a line for each tenth of them: rate, latencies and what
//! the process holds. `crowd` registers agents, then has a part of them decide. Both end with `kill -9` in the
//! midst of it and tell how long it takes until the process says that it is ready, and until an agent that
//! was there before has its next decision.

mod crowd;
mod drift;
mod restarts;

use std::io::Write;

use aa_chaos_tests::vitals::machine;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let which = arguments.next();
    let numbers: Vec<u64> = arguments.map(|text| text.parse()).collect::<Result<_, _>>()?;
    let number = |index: usize, default: u64| numbers.get(index).copied().unwrap_or(default);
    say(&machine())?;
    let drift = || drift::run(number(0, 10_000_000), number(1, 64), number(2, 16));
    let crowd = || crowd::run(number(0, 1_000_000), number(1, 100_000), number(2, 60));
    match which.as_deref() {
        Some("drift") => drift().await,
        Some("crowd") => crowd().await,
        None => {
            drift().await?;
            crowd().await
        }
        Some(other) => Err(format!("`{other}` is neither drift nor crowd").into()),
    }
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    out.flush()
}

const MIB: f64 = 1_048_576.0;
