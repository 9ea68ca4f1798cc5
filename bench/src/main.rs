//! The measuring program behind `cargo xtask bench`.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use oneiric_bench::report::Report;
use oneiric_bench::variant::{self, exists};
use oneiric_bench::workload::{ENTRIES, Order};
use oneiric_bench::{calls, children, failures, hits, large, program, resident, swaps};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["reads", name, count] if exists(name) => number(count).map(|count| reads(name, count)),
        ["resident", name, count] => {
            number(count).map(|count| println!("{}", resident::measure(name, count)))
        }
        flags => Options::parse(flags).and_then(|options| run(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("oneiric-bench: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// What is measured, one part after the other.
const PARTS: [&str; 9] = [
    "hits",
    "instructions",
    "allocations",
    "calls",
    "failures",
    "swaps",
    "large",
    "resident",
    "program",
];

struct Options {
    json: Option<String>,
    quick: bool,
    /// The one part that is wanted.
    only: Option<String>,
}

impl Options {
    fn parse(args: &[&str]) -> Result<Self, String> {
        let mut options = Self { json: None, quick: false, only: None };
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            match *arg {
                "--quick" => options.quick = true,
                "--json" => {
                    let file = rest.next().ok_or("`--json` needs a file")?;
                    options.json = Some((*file).to_owned());
                }
                "--only" => {
                    let part = rest.next().ok_or("`--only` needs the name of a part")?;
                    if !PARTS.contains(part) {
                        let parts = PARTS.join(", ");
                        return Err(format!("`{part}` is no part; there are {parts}"));
                    }
                    options.only = Some((*part).to_owned());
                }
                other => return Err(format!("`{other}` is not understood here")),
            }
        }
        Ok(options)
    }
}

/// Everything, one part after the other, so that no part disturbs another.
fn run(options: &Options) -> Result<(), String> {
    let quick = options.quick;
    let pick = |quickly, thoroughly| if quick { quickly } else { thoroughly };
    let window = Duration::from_secs(if quick { 4 } else { 20 });
    let mut report = Report::default();
    if !exists("aws") {
        report.leave_out("all that compares with aws_secretsmanager_caching: it is not built in");
    }
    let wanted = |part: &str| options.only.as_ref().is_none_or(|only| only == part);
    for part in PARTS.into_iter().filter(|part| wanted(part)) {
        let start = Instant::now();
        match part {
            "hits" => report.add(hits::figures(pick(7, 21))),
            "instructions" => match children::instructions() {
                Ok(figures) => report.add(figures),
                Err(problem) => report.leave_out(format!("all counts of instructions: {problem}")),
            },
            "allocations" => report.add(children::allocations()?),
            "calls" => report.add(calls::figures(pick(3, 11))),
            "failures" => report.add(failures::figures(window)),
            "swaps" => report.add(swaps::figures(pick(1, 5), pick(50, 200))),
            "large" => report.add(large::figures(pick(21, 101), large::MANY)),
            "resident" => report.add(children::bytes_per_entry(large::MANY)?),
            "program" => report.add(program::figures(pick(3, 11))?),
            _ => return Err(format!("the part `{part}` is not measured")),
        }
        eprintln!("measured {part} in {:.0} s", start.elapsed().as_secs_f64());
    }
    print!("{}", report.table());
    if let Some(file) = &options.json {
        let text = format!("{:#}\n", report.json());
        std::fs::write(file, text).map_err(|error| format!("cannot write {file}: {error}"))?;
    }
    Ok(())
}

/// For callgrind: the same preparation whatever the count, then so many reads.
fn reads(name: &str, count: usize) {
    let order = Order::Zipf.draw(2 * children::READS, ENTRIES, 7);
    variant::fill(name, ENTRIES).pass(&order[..count.min(order.len())]);
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}
