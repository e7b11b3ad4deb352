//! Kills plugins, and hosts with plugins, at random points of mixed traffic, and looks what that breaks or leaves behind.

use std::process::ExitCode;

use plug_faults::chaos::{any_seed, conclude, give_back_freed_memory, hosts, kills, plugin_path};

const USAGE: &str = "\
usage: chaos kills COUNT [SEED [FROM]]
  Has COUNT plugins live under mixed traffic, four at a time, and end violently.
  SEED and FROM repeat the choices of a run from one of its lives on.
       chaos hosts COUNT [SEED]
  Kills COUNT hosts, each with one to five plugins under mixed traffic, and looks for orphans.";

fn main() -> ExitCode {
    give_back_freed_memory();
    let args: Vec<String> = std::env::args().skip(1).collect();
    // What `hosts` kills.
    if let [verb, mark, plugins, seed, folder] = &args[..] {
        if let ("host", Ok(plugins), Ok(seed)) = (verb.as_str(), plugins.parse(), seed.parse()) {
            let failed = hosts::host(plugin_path(), mark, plugins, seed, folder);
            return conclude(
                Some(failed.map(|()| String::new()).map_err(|error| format!("{error:?}"))),
                USAGE,
            );
        }
    }
    let numbers: Option<Vec<u64>> = args.iter().skip(1).map(|arg| arg.parse().ok()).collect();
    let verb = args.first().map(String::as_str);
    let ran = match (verb, numbers.as_deref()) {
        (Some("kills"), Some(&[count, ref more @ ..])) if count > 0 && more.len() <= 2 => {
            let seed = more.first().copied().unwrap_or_else(any_seed);
            println!("seed {seed}");
            Some(kills::kills(plugin_path(), count, seed, more.get(1).copied().unwrap_or(0)))
        }
        (Some("hosts"), Some(&[count, ref more @ ..])) if count > 0 && more.len() <= 1 => {
            let seed = more.first().copied().unwrap_or_else(any_seed);
            println!("seed {seed}");
            Some(hosts::hosts(count, seed))
        }
        _ => None,
    };
    conclude(ran, USAGE)
}
