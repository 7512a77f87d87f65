//! One decision: this project's `decide()` beside Cedar and regorus, given the same rules.
//!
//! `decide [ROUNDS]` checks first that all engines give every sample action the verdict its rules demand, then
//! times them in turn, round after round.

use std::{
    hint::black_box,
    io::Write,
    sync::Barrier,
    time::{Duration, Instant},
};

use aa_bench::{
    Error, Latencies, Machine, Rounds,
    policies::{Cedar, Engine, Machinery, Ours, Rego, Scenario, Shape},
};

const RULES: [usize; 4] = [1, 10, 100, 1_000];
/// How long one figure is measured.
const SLICE: Duration = Duration::from_millis(150);
/// Single calls timed for a percentile.
const SINGLE: usize = 20_000;

const INSIDE: &str = "\
inside the timed section, every sample action in turn, all rules of the scenario loaded beforehand:
  ours    judge(): the parsed action in; verdict, every reason with document, path and position, and
          the documents that applied out. owned: decide(), the same with a copy of them for the caller
  cedar   Authorizer::is_authorized() with a prepared Request and prepared Entities, and the look at the
          determining policies that tells an approval from a denial; one policy per rule
  regorus set_input() with a prepared value and the evaluation of one rule, engine reused; the fastest of
          four: one Rego rule per rule or the rules as data, each by interpreter and by register machine
outside: parsing of policies, rules, actions and requests. Sensitive patterns are left out: Cedar has none";

type Boxed = Box<dyn Engine + Send>;
type Make = Box<dyn Fn(&Scenario) -> Result<Boxed, Error>>;

fn main() -> Result<(), Error> {
    let rounds = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let mut out = std::io::stdout();
    writeln!(out, "{}\n{INSIDE}\n", Machine::read())?;
    writeln!(
        out,
        "mean time of one decision in µs, one thread; {rounds} rounds: median (least–most)\n{:>5} {:>6} | {:>20} | {:>6} | {:>22} | {:>24} {:<16} | cedar/ours | regorus/ours",
        "rules", "scopes", "ours", "owned", "cedar", "regorus", "(fastest form)"
    )?;
    for rules in RULES {
        for scopes in [1, 3, 5] {
            compare(&Scenario::new(rules, scopes), rounds, &mut out)?;
        }
    }
    writeln!(out, "\nsingle decisions, clock included: p50 and p99 in µs; {rounds} rounds")?;
    writeln!(
        out,
        "{:>5} {:>6} | {:>20} | {:>20} | cedar p50, p99 (one round)",
        "rules", "scopes", "ours p50", "ours p99"
    )?;
    for rules in RULES {
        singles(&Scenario::new(rules, 5), rounds, &mut out)?;
    }
    writeln!(
        out,
        "\none decision by kind, 100 rules over 5 scopes, p50 of single decisions in µs"
    )?;
    by_sample(&Scenario::new(100, 5), &mut out)?;
    writeln!(
        out,
        "\nall cores, 100 rules over 5 scopes: decisions per second; each thread one agent"
    )?;
    scaling(&Scenario::new(100, 5), rounds, &mut out)
}

fn ours(scenario: &Scenario, shape: Shape) -> Result<Boxed, Error> {
    Ok(Box::new(Ours::new(scenario, shape)?))
}

fn cedar(scenario: &Scenario) -> Result<Boxed, Error> {
    Ok(Box::new(Cedar::new(scenario)?))
}

fn regos() -> Vec<(&'static str, Make)> {
    let form = |name, machinery, as_data| -> (&'static str, Make) {
        (name, Box::new(move |s| Ok(Box::new(Rego::new(s, machinery, as_data)?) as Boxed)))
    };
    vec![
        form("rules, vm", Machinery::Vm, false),
        form("data, vm", Machinery::Vm, true),
        form("rules, interp.", Machinery::Interpreter, false),
        form("data, interp.", Machinery::Interpreter, true),
    ]
}

/// Every sample must get the verdict that its rules demand.
fn verify(name: &str, engine: &mut Boxed, scenario: &Scenario) -> Result<usize, Error> {
    let samples = scenario.samples()?;
    for (index, sample) in samples.iter().enumerate() {
        let verdict = engine.decide(index)?;
        if verdict != sample.expected {
            return Err(format!(
                "{name} at {} rules: {verdict} for `{}`, expected {}: {:?}",
                scenario.rules(),
                sample.name,
                sample.expected,
                sample.action
            )
            .into());
        }
    }
    Ok(samples.len())
}

/// Microseconds of one decision, as the mean over all samples for [`SLICE`].
fn mean_us(engine: &mut Boxed, samples: usize) -> f64 {
    let start = Instant::now();
    let mut decisions = 0_u32;
    while start.elapsed() < SLICE {
        // Between looks at the clock, at least as much work as makes them vanish.
        for _ in 0..4 {
            for sample in 0..samples {
                let _ = black_box(engine.decide(black_box(sample)));
            }
        }
        decisions += 4 * samples as u32;
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(decisions)
}

fn compare(scenario: &Scenario, rounds: usize, out: &mut impl Write) -> Result<(), Error> {
    let mut engines = vec![
        ("ours", ours(scenario, Shape::Shared)?),
        ("owned", ours(scenario, Shape::Owned)?),
        ("cedar", cedar(scenario)?),
    ];
    for (name, make) in regos() {
        engines.push((name, make(scenario)?));
    }
    let mut samples = 0;
    for (name, engine) in &mut engines {
        samples = verify(name, engine, scenario)?;
    }
    let mut figures = vec![Rounds::default(); engines.len()];
    for _ in 0..rounds {
        for ((_, engine), figures) in engines.iter_mut().zip(&mut figures) {
            figures.push(mean_us(engine, samples));
        }
    }
    let [ours, owned, cedar, regos @ ..] = figures.as_slice() else { return Ok(()) };
    let names = engines.iter().skip(3).map(|(name, _)| *name);
    let fastest = names.zip(regos).min_by(|(_, a), (_, b)| a.median().total_cmp(&b.median()));
    let Some((name, rego)) = fastest else { return Ok(()) };
    writeln!(
        out,
        "{:>5} {:>6} | {ours:>20.3} | {:>6.3} | {cedar:>22.2} | {rego:>24.2} {name:<16} | {:>9.1}× | {:>10.1}×",
        scenario.rules(),
        scenario.scopes,
        owned.median(),
        cedar.median() / ours.median(),
        rego.median() / ours.median(),
    )?;
    Ok(())
}

fn singles(scenario: &Scenario, rounds: usize, out: &mut impl Write) -> Result<(), Error> {
    let mut ours = ours(scenario, Shape::Shared)?;
    let samples = verify("ours", &mut ours, scenario)?;
    let (mut p50, mut p99) = (Rounds::default(), Rounds::default());
    for _ in 0..rounds {
        let latencies = single(&mut ours, samples, SINGLE);
        p50.push(latencies.p50_us());
        p99.push(latencies.p99_us());
    }
    let cedar = single(&mut cedar(scenario)?, samples, SINGLE / 20);
    writeln!(
        out,
        "{:>5} {:>6} | {p50:>20.2} | {p99:>20.2} | {:.1}, {:.1}",
        scenario.rules(),
        scenario.scopes,
        cedar.p50_us(),
        cedar.p99_us()
    )?;
    Ok(())
}

fn single(engine: &mut Boxed, samples: usize, count: usize) -> Latencies {
    Latencies::measure(count, |run| {
        let _ = black_box(engine.decide(black_box(run % samples)));
    })
}

fn by_sample(scenario: &Scenario, out: &mut impl Write) -> Result<(), Error> {
    let mut engine = ours(scenario, Shape::Shared)?;
    for (index, sample) in scenario.samples()?.iter().enumerate() {
        let latencies = Latencies::measure(SINGLE, |_| {
            let _ = black_box(engine.decide(black_box(index)));
        });
        let (p50, p99) = (latencies.p50_us(), latencies.p99_us());
        let verdict = sample.expected;
        writeln!(out, "{:>24} {verdict:<16} p50 {p50:>6.2}  p99 {p99:>6.2}", sample.name)?;
    }
    Ok(())
}

fn scaling(scenario: &Scenario, rounds: usize, out: &mut impl Write) -> Result<(), Error> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let samples = scenario.samples()?.len();
    let (ours, cedar) = (Ours::new(scenario, Shape::Shared)?, Cedar::new(scenario)?);
    let engines: [(&str, &dyn Fn() -> Boxed); 2] =
        [("ours", &|| Box::new(ours.beside())), ("cedar", &|| Box::new(cedar.clone()))];
    for (name, engine) in engines {
        let (mut one, mut all) = (Rounds::default(), Rounds::default());
        for _ in 0..rounds {
            one.push(per_second(engine, samples, 1)?);
            all.push(per_second(engine, samples, cores)?);
        }
        let factor = all.median() / one.median();
        writeln!(out, "{name:>6}: 1 thread {one:.0}, {cores} threads {all:.0}: × {factor:.2}")?;
    }
    Ok(())
}

/// The threads share the compiled rules.
fn per_second(engine: &dyn Fn() -> Boxed, samples: usize, threads: usize) -> Result<f64, Error> {
    let mut engines: Vec<Boxed> = (0..threads).map(|_| engine()).collect();
    let start = Barrier::new(threads);
    let rate = |engine: &mut Boxed| {
        start.wait();
        1e6 / mean_us(engine, samples)
    };
    std::thread::scope(|scope| {
        let running: Vec<_> =
            engines.iter_mut().map(|engine| scope.spawn(|| rate(engine))).collect();
        let rates = running.into_iter().map(std::thread::ScopedJoinHandle::join);
        rates.sum::<Result<f64, _>>().map_err(|_| "a thread panicked".into())
    })
}
