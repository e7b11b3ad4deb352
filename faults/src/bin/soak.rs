//! A long time of mixed load with plugins that die, or a great many calls: what grows?

use std::process::ExitCode;
use std::time::Duration;

use plug_faults::chaos::{any_seed, conclude, give_back_freed_memory, plugin_path, soak};

const USAGE: &str = "\
usage: soak time SECONDS [SEED]
         Mixed load on plugins that live for some seconds and end violently, beside one that is innocent.
       soak calls COUNT
         So many small calls to one plugin.
  Fails if anything is wrong or grows: see plug_faults::chaos::samples.";

fn main() -> ExitCode {
    give_back_freed_memory();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Option<Vec<u64>> = args.iter().skip(1).map(|arg| arg.parse().ok()).collect();
    let verb = args.first().map(String::as_str);
    let ran = match (verb, numbers.as_deref()) {
        (Some("time"), Some(&[seconds, ref more @ ..])) if seconds > 0 && more.len() <= 1 => {
            let seed = more.first().copied().unwrap_or_else(any_seed);
            println!("seed {seed}");
            Some(soak::soak(plugin_path(), Duration::from_secs(seconds), seed))
        }
        (Some("calls"), Some(&[count])) if count > 0 => Some(soak::calls(&plugin_path(), count)),
        _ => None,
    };
    conclude(ran, USAGE)
}
