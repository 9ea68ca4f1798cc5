//! Rehearses rotations under load on embedded parts, and counts what went wrong.
//!
//! A service built on the library talks to something that enforces credentials, without pause and
//! from many tasks, while an operator rotates the credential again and again with the real
//! `oneiric secrets rotate` and revokes the old one each time. It exits with 1 if one request
//! failed or a revoked credential was used.
#![forbid(unsafe_code)]

mod report;
mod operator;
mod trials;
mod service;
mod load;
mod upstream;
mod http_scenario;
mod program;
mod process_scenario;
mod template_scenario;
#[cfg(feature = "signal")]
mod recipe;
#[cfg(feature = "signal")]
mod https;
#[cfg(feature = "signal")]
mod nginx;
#[cfg(feature = "signal")]
mod signal_scenario;
#[cfg(feature = "postgres")]
mod database;
#[cfg(feature = "postgres")]
mod pools;
#[cfg(feature = "postgres")]
mod postgres_scenario;
#[cfg(feature = "postgres")]
mod postgres_naive;
#[cfg(feature = "postgres-vault")]
mod leases;
#[cfg(feature = "postgres-vault")]
mod leases_scenario;
#[cfg(feature = "redis")]
mod cache;
#[cfg(feature = "redis")]
mod cache_clients;
#[cfg(feature = "redis")]
mod redis_scenario;
#[cfg(feature = "redis")]
mod redis_naive;
#[cfg(any(feature = "tls", feature = "signal"))]
mod certificates;
#[cfg(feature = "tls")]
mod tls_peers;
#[cfg(feature = "tls")]
mod tls_scenario;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

/// Rotate the secrets of a service under load and count what fails.
#[derive(Debug, Clone, Parser)]
struct Args {
    /// What is rotated.
    #[arg(long, value_enum, default_value_t = Scenario::Http)]
    scenario: Scenario,
    /// How many rotations.
    #[arg(long)]
    rotations: Option<u32>,
    /// How many tasks use the credential at the same time.
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// How many requests at least.
    #[arg(long)]
    requests: Option<u64>,
    /// The other side: the same load with a plain cache with a time to live.
    #[arg(long)]
    naive: bool,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// A bearer token of an HTTP client.
    Http,
    /// A token in the environment of a server in Python, which is replaced while it serves.
    Process,
    /// Two login roles of PostgreSQL, under pools of sqlx and deadpool.
    Postgres,
    /// Logins to PostgreSQL that OpenBao leases for four seconds, under the same pools.
    PostgresVault,
    /// The certificate of a TLS server.
    Tls,
    /// The password of a user of Redis, under requests, a queue and subscriptions.
    Redis,
    /// A rendered file, replaced under its readers.
    Template,
    /// The certificate and the password file of nginx, which is told by a signal.
    Signal,
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rotations: u32,
    clients: u32,
    requests: u64,
}

impl Args {
    fn plan(&self) -> Plan {
        let (rotations, requests) = match self.scenario {
            Scenario::Http => (60, 120_000),
            Scenario::Process => (50, 50_000),
            Scenario::Postgres => (24, 24_000),
            Scenario::PostgresVault => (20, 20_000),
            Scenario::Tls => (50, 20_000),
            Scenario::Redis => (50, 100_000),
            Scenario::Template => (60, 1_000_000),
            Scenario::Signal => (50, 10_000),
        };
        // The other side is there to be seen, not to be waited for.
        let (rotations, requests) = if self.naive { (10, 10_000) } else { (rotations, requests) };
        Plan {
            rotations: self.rotations.unwrap_or(rotations).max(1),
            clients: self.clients.max(1),
            requests: self.requests.unwrap_or(requests),
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Args::parse();
    let plan = args.plan();
    let outcome = match (args.scenario, args.naive) {
        (Scenario::Http, false) => http_scenario::rotate(plan).await,
        (Scenario::Http, true) => http_scenario::naive(plan).await,
        (Scenario::Process, false) => process_scenario::rotate(plan).await,
        (Scenario::Process, true) => process_scenario::naive(plan).await,
        (Scenario::Template, false) => template_scenario::rotate(plan).await,
        (Scenario::Template, true) => template_scenario::naive(plan).await,
        #[cfg(feature = "signal")]
        (Scenario::Signal, false) => signal_scenario::rotate(plan).await,
        #[cfg(feature = "signal")]
        (Scenario::Signal, true) => signal_scenario::naive(plan).await,
        #[cfg(not(feature = "signal"))]
        (Scenario::Signal, _) => Err("this rehearsal was built without `signal`".to_owned()),
        #[cfg(feature = "postgres")]
        (Scenario::Postgres, false) => postgres_scenario::rotate(plan).await,
        #[cfg(feature = "postgres")]
        (Scenario::Postgres, true) => postgres_naive::naive(plan).await,
        #[cfg(feature = "postgres-vault")]
        (Scenario::PostgresVault, false) => leases_scenario::rotate(plan).await,
        #[cfg(feature = "postgres-vault")]
        (Scenario::PostgresVault, true) => leases_scenario::naive(plan).await,
        #[cfg(not(feature = "postgres-vault"))]
        (Scenario::PostgresVault, _) => {
            Err("this rehearsal was built without `postgres-vault`".to_owned())
        }
        #[cfg(feature = "tls")]
        (Scenario::Tls, false) => tls_scenario::rotate(plan).await,
        #[cfg(feature = "tls")]
        (Scenario::Tls, true) => tls_scenario::naive(plan).await,
        #[cfg(not(feature = "tls"))]
        (Scenario::Tls, _) => Err("this rehearsal was built without `tls`".to_owned()),
        #[cfg(feature = "redis")]
        (Scenario::Redis, false) => redis_scenario::rotate(plan).await,
        #[cfg(feature = "redis")]
        (Scenario::Redis, true) => redis_naive::naive(plan).await,
        #[cfg(not(feature = "redis"))]
        (Scenario::Redis, _) => Err("this rehearsal was built without `redis`".to_owned()),
        #[cfg(not(feature = "postgres"))]
        (Scenario::Postgres, _) => Err("this rehearsal was built without `postgres`".to_owned()),
    };
    match outcome {
        Ok(report) => {
            report.print(args.json);
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            report::complain(&error);
            ExitCode::FAILURE
        }
    }
}
