//! Counting with `valgrind --tool=callgrind`, and reading what it wrote (its manual, "Callgrind Format
//! Specification").

use std::{collections::HashSet, env, fs, path::Path, process::Command, sync::Mutex, thread};

use aa_bench::Error;

use crate::subjects::{SECTION, Subject};

/// What counts, and what it is counted with.
pub(crate) struct Tools {
    valgrind: String,
    compiler: String,
    libc: String,
}

/// What one run of a subject cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// How many operations they are of.
    pub(crate) operations: u64,
    /// Instructions outside the compression function of SHA-256.
    pub(crate) instructions: u64,
    /// Instructions in it. `valgrind` has no SHA extensions, so these are of the function in plain code: a
    /// measure of how many blocks are hashed, not of what that costs.
    pub(crate) sha256: u64,
    /// Calls that allocate memory or make an allocation larger.
    pub(crate) allocations: u64,
}

/// The argument that makes this program run a subject instead of counting.
pub(crate) const RUN: &str = "--run";

/// The functions of the C library behind the global allocator.
const ALLOCATORS: [&str; 6] =
    ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"];

// === impl Tools ===

impl Tools {
    /// Looks whether everything is there.
    ///
    /// # Errors
    /// `valgrind` is not.
    pub(crate) fn find() -> Result<Self, Error> {
        let valgrind = first_line("valgrind", &["--version"]).ok_or(
            "valgrind is not installed, and it is what counts instructions; install it \
             (apt-get install valgrind) and run this again",
        )?;
        if cfg!(debug_assertions) {
            return Err("this is an unoptimised build; run it with cargo run --release".into());
        }
        let unknown = || "unknown".to_owned();
        let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let compiler = first_line(&rustc, &["--version"]).unwrap_or_else(unknown);
        let compiler = compiler.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let libc = first_line("getconf", &["GNU_LIBC_VERSION"]).unwrap_or_else(unknown);
        Ok(Self { valgrind, compiler, libc })
    }

    /// What the figures were made with.
    pub(crate) fn versions(&self) -> String {
        let Self { valgrind, compiler, libc } = self;
        format!("{compiler}, {libc}, {valgrind}, {}", env::consts::ARCH)
    }

    /// Counts the subjects, as many at a time as there are cores.
    ///
    /// # Errors
    /// A run fails, or what it wrote does not read.
    pub(crate) fn count_all(&self, subjects: &[Subject]) -> Result<Vec<Counts>, Error> {
        let directory = tempfile::tempdir()?;
        let program = env::current_exe()?;
        // The longest come last in the list and are begun first.
        let waiting: Mutex<Vec<usize>> = Mutex::new((0..subjects.len()).collect());
        let next = || waiting.lock().ok()?.pop();
        let work = || {
            let mut counted = Vec::new();
            while let Some(index) = next() {
                let out = directory.path().join(index.to_string());
                counted.push((index, count(&program, subjects[index], &out)));
            }
            counted
        };
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let mut counted = thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let joined = workers.into_iter().filter_map(|worker| worker.join().ok());
            joined.flatten().collect::<Vec<_>>()
        });
        counted.sort_by_key(|(index, _)| *index);
        if counted.len() != subjects.len() {
            return Err("a thread that counted has panicked".into());
        }
        counted.into_iter().map(|(_, counts)| counts.map_err(Error::from)).collect()
    }
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned).filter(|_| output.status.success())
}

/// Instructions are the mean of three passes in two processes, since every process seeds its hash maps by
/// chance. Calls are counted outside the section too, and always the same ones: what a second pass adds is
/// what a pass has.
fn count(program: &Path, subject: Subject, out: &Path) -> Result<Counts, String> {
    let failed = |why: String| format!("{} could not be counted: {why}", subject.name());
    let once = pass(program, subject, 1, out).map_err(failed)?;
    let twice = pass(program, subject, 2, out).map_err(failed)?;
    let counts = Counts {
        operations: once.operations,
        instructions: (once.instructions + twice.instructions) / 3,
        sha256: (once.sha256 + twice.sha256) / 3,
        allocations: twice.allocations.saturating_sub(once.allocations),
    };
    if counts.instructions == 0 {
        return Err(failed(format!("nothing was counted in a function named {SECTION}")));
    }
    Ok(counts)
}

/// Runs the subject with its section `times` times.
fn pass(program: &Path, subject: Subject, times: u64, out: &Path) -> Result<Counts, String> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--toggle-collect=*{SECTION}*"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args([RUN, subject.name(), &times.to_string()])
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let operations = String::from_utf8_lossy(&output.stdout).trim().parse::<u64>();
    let operations = operations.ok().filter(|count| *count > 0).ok_or("it ran no operation")?;
    let text = fs::read_to_string(out).map_err(|error| error.to_string())?;
    Ok(Counts { operations, ..Counts::read(&text)? })
}

// === impl Counts ===

impl Counts {
    /// Reads a callgrind file: lines `fn=<name>`, then `<line> <instructions>` of the function itself, and
    /// for each function it calls `cfn=<name>`, `calls=<count> <line>` and one line of what those cost,
    /// which is counted where the callee is.
    fn read(text: &str) -> Result<Self, String> {
        let mut counts = Self::default();
        let allocators: HashSet<&str> = ALLOCATORS.into();
        let (mut function, mut callee) = ("", "");
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let damaged =
                || format!("line {} of callgrind's file does not read: {line}", number + 1);
            if let Some(name) = line.strip_prefix("fn=") {
                function = name;
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = name;
            } else if let Some(calls) = line.strip_prefix("calls=") {
                let count = calls.split(' ').next().and_then(|count| count.parse::<u64>().ok());
                if allocators.contains(callee) && !allocators.contains(function) {
                    counts.allocations += count.ok_or_else(damaged)?;
                }
                lines.next();
            } else if line.starts_with(|c: char| c.is_ascii_digit()) {
                let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok());
                let cost = cost.ok_or_else(damaged)?;
                let hashing = function.starts_with("sha2::sha256") && function.contains("compress");
                *if hashing { &mut counts.sha256 } else { &mut counts.instructions } += cost;
            }
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callgrind_file_is_read() {
        let text = "version: 1\npositions: line\nevents: Ir\nsummary: 30\n\n\
            fl=a.rs\nfn=a::work\n10 7\nfi=b.rs\n11 3\ncfi=c.rs\ncfn=sha2::sha256::soft::compress\n\
            calls=2 5\n12 9\ncob=libc\ncfi=d\ncfn=malloc\ncalls=4 0\n13 40\n\n\
            fn=sha2::sha256::soft::compress\n5 9\n\nfn=realloc\n1 2\ncfn=malloc\ncalls=1 0\n1 5\n\n\
            totals: 30\n";
        let counts = Counts::read(text).expect("it is well formed");
        assert_eq!(counts, Counts { operations: 0, instructions: 12, sha256: 9, allocations: 4 });
    }
}
