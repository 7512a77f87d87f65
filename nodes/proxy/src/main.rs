//! `aa-proxy`: governance without a change in the agent.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, time::Duration};

use aa_proxy::{
    config::Config,
    start::{Running, start},
};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Governs agents at the wire: what they send is decided before it leaves, metered and recorded.
#[derive(Debug, Parser)]
#[command(name = "aa-proxy", version, max_term_width = 100, after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGINT or SIGTERM; SIGHUP reads the configuration again
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE", env = "AA_PROXY_CONFIG")]
        config: PathBuf,
    },
    /// Say whether a configuration can be used
    Check {
        /// The configuration file
        #[arg(long, value_name = "FILE", env = "AA_PROXY_CONFIG")]
        config: PathBuf,
    },
}

const HELP: &str = "\
The gateway is named in the file's [gateway], or by AAA_WORKSPACE_ID, AAA_API_KEY, AAA_GATEWAY_URL and AAA_CA_FILE \
as for every SDK. Agents are sent here with HTTPS_PROXY and HTTP_PROXY, and trust the proxy's CA: \
`aasm ca export`.

Exit codes:
  0  ended in order, or the configuration can be used
  1  could not start, or requests were still under way at the end
  2  bad input: wrong usage, a configuration that cannot be used";

/// How long requests under way may take once the end was asked for.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let cli = Cli::parse();
    // There is to be one provider of cryptography in the process, chosen here.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match cli.command {
        Command::Check { config } => match Config::read(&config) {
            Ok(read) => {
                tracing::info!(
                    listeners = read.listeners.len(),
                    "{} can be used",
                    config.display()
                );
                ExitCode::SUCCESS
            }
            Err(error) => refuse(&error),
        },
        Command::Run { config } => {
            let runtime = match tokio::runtime::Runtime::new() {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(%error, "the system gives no threads");
                    return ExitCode::FAILURE;
                }
            };
            runtime.block_on(run(config))
        }
    }
}

fn refuse(error: &dyn std::error::Error) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::from(2)
}

async fn run(path: PathBuf) -> ExitCode {
    let config = match Config::read(&path) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    let ended = async {
        let mut signals = Signals::new()?;
        let running = start(config).await?;
        for address in running.addresses() {
            tracing::info!(%address, "listening");
        }
        if let Some(address) = running.admin() {
            tracing::info!(%address, "health and metrics");
        }
        signals.serve(&running, &path).await;
        tracing::info!("ending: requests under way may end");
        Ok::<_, Box<dyn std::error::Error>>(running.stop(PATIENCE).await)
    };
    match ended.await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            tracing::error!("requests were still under way after {} s", PATIENCE.as_secs());
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

// === impl Signals ===

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Until the end is asked for.
    async fn serve(&mut self, running: &Running, path: &std::path::Path) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hang_up.recv() => match Config::read(path) {
                    Ok(config) => {
                        running.change(config.settings);
                        tracing::info!("configuration read again; listeners, gateway and CA stay as they were");
                    }
                    Err(error) => tracing::error!(%error, "configuration not taken over"),
                },
            }
        }
    }
}
