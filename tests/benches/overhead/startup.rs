//! From the start of the process to the first attached program and to the first served scrape; and the size of the binary.

use std::collections::HashSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::links::LinkType;
use aya::programs::loaded_links;

use crate::agent::{self, Agent};

const STARTS: usize = 11;

/// Between two looks.
const PAUSE: Duration = Duration::from_micros(500);

pub(crate) fn run() {
    for mode in ["sockets", "events"] {
        let mut times: [Vec<f64>; 3] = Default::default();
        for _ in 0..STARTS {
            for (times, took) in times.iter_mut().zip(start(mode)) {
                times.push(took.as_secs_f64() * 1e3);
            }
        }
        let [attached, measuring, scraped] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[STARTS / 2]
        });
        println!(
            "start-up, mode {mode}, median of {STARTS}: first program attached {attached:.0} ms, measuring {measuring:.0} ms, \
             first scrape served {scraped:.0} ms"
        );
    }
    let binary = fs::metadata(env!("CARGO_BIN_EXE_flowtap")).expect("the binary");
    println!("binary: {:.1} MiB", binary.len() as f64 / f64::from(1 << 20));
}

/// Times until a program is attached, until it says that it measures, and until a scrape is served.
fn start(mode: &str) -> [Duration; 3] {
    let endpoint = agent::free_address();
    let before: HashSet<_> = links().collect();
    let mut command = agent::flowtap(&[
        &format!("receivers.ebpf.mode={mode}"),
        &format!("exporters.prometheus.endpoint={endpoint}"),
    ]);
    command.stdin(std::process::Stdio::null());
    let began = Instant::now();
    thread::scope(|scope| {
        let attached = scope.spawn(move || {
            while links().all(|link| before.contains(&link)) {
                thread::sleep(PAUSE);
            }
            began.elapsed()
        });
        let scraped = scope.spawn(move || {
            while agent::scrape(endpoint).is_none() {
                thread::sleep(PAUSE);
            }
            began.elapsed()
        });
        let agent = Agent::when(command, "measuring version");
        let measuring = began.elapsed();
        let times = [
            attached.join().expect("attached"),
            measuring,
            scraped.join().expect("scraped"),
        ];
        drop(agent);
        times
    })
}

/// Programs that are attached to something that happens; a link of an iterator waits to be read.
fn links() -> impl Iterator<Item = u32> {
    loaded_links()
        .filter_map(Result::ok)
        .filter(|link| !matches!(link.link_type(), Ok(LinkType::Iter)))
        .map(|link| link.id())
}
