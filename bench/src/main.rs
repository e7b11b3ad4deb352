//! Measures calls of plug against a raw pipe, with the same bytes, in interleaved rounds of one run.
//!
//! ```sh
//! cargo run --release --manifest-path bench/Cargo.toml -- [--one-core] [--quick] [--only WORK,WORK]
//! ```
//!
//! The works are `echo64`, `echo64-paused`, `echo1m`, `echo64-x32` and `start`.
//!
//! Absolute times are those of the machine and its mood; quote the ratios. Every reply is checked.

mod children;
mod stats;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use plug_bench::{EchoProxy, load_echo};

use children::{Cores, RawPipe};
use stats::Samples;

/// How much is measured.
struct Plan {
    one_core: bool,
    rounds: usize,
    calls: usize,
}

fn main() -> Result<()> {
    let mut plan = Plan { one_core: false, rounds: 40, calls: 5_000 };
    let mut only = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            children::RAW_PIPE => return children::serve_raw_pipe(),
            children::PLUGIN => return Ok(children::serve_plugin()?),
            "--one-core" => plan.one_core = true,
            "--quick" => (plan.rounds, plan.calls) = (5, 1_000),
            "--only" => only = Some(args.next().context("--only needs the names of works")?),
            other => bail!("unknown argument {other}; there are --one-core, --quick and --only"),
        }
    }
    if plan.one_core {
        children::pin(Cores::First)?;
    }
    println!("{:<44}{:>10}{:>10}{:>10}", "", "median µs", "p99 µs", "× pipe");
    let wanted =
        |work: &str| only.as_ref().is_none_or(|only| only.split(',').any(|only| only == work));
    if wanted("echo64") {
        echo(&plan, 64, Duration::ZERO)?;
    }
    if wanted("echo64-paused") {
        echo(&plan, 64, Duration::from_micros(300))?;
    }
    if wanted("echo1m") {
        echo(&Plan { calls: plan.calls / 50, ..plan }, 1 << 20, Duration::ZERO)?;
    }
    if wanted("echo64-x32") {
        many_callers(&plan)?;
    }
    if wanted("start") {
        start(&plan)?;
    }
    Ok(())
}

/// Round trips of one caller.
fn echo(plan: &Plan, size: usize, pause: Duration) -> Result<()> {
    let own = std::env::current_exe()?;
    let mut pipe = RawPipe::start(size, Cores::Any)?;
    let proxy = load_echo(plug::Command::new(own).arg(children::PLUGIN))?;
    let payload: Vec<u8> = (0..size).map(|index| index as u8).collect();
    // With a pause, so many calls take long.
    let calls = if pause.is_zero() { plan.calls } else { plan.calls / 10 };

    // Long enough never to pass.
    let limited = plug::Proxy::with_timeout(&proxy, Duration::from_secs(60));

    let (mut raw, mut plug, mut plug_limited) =
        (Samples::default(), Samples::default(), Samples::default());
    for round in 0..=plan.rounds {
        let counted = round > 0;
        raw.round(calls, counted, pause, || pipe.echo(&payload))?;
        plug.round(calls, counted, pause, || echo_once(&proxy, &payload))?;
        plug_limited.round(calls, counted, pause, || echo_once(&limited, &payload))?;
    }
    let what = match (size, pause.is_zero()) {
        (1_048_576, _) => "1 MiB echo, back to back".to_owned(),
        (_, true) => format!("{size} B echo, back to back"),
        (_, false) => format!("{size} B echo, after a pause of {} µs", pause.as_micros()),
    };
    println!("{what}");
    raw.print("pipe", &raw);
    plug.print("plug", &raw);
    plug_limited.print("plug, with a time-out", &raw);
    Ok(())
}

fn echo_once(proxy: &EchoProxy, payload: &[u8]) -> Result<()> {
    let reply = proxy.echo(payload)?;
    if reply != payload {
        bail!("the reply differs from the request");
    }
    Ok(())
}

/// 32 threads on one proxy, against one caller of a raw pipe whose ends are on two cores.
fn many_callers(plan: &Plan) -> Result<()> {
    const CALLERS: usize = 32;
    let own = std::env::current_exe()?;
    let payload = [7; 64];
    let cores = if plan.one_core { Cores::Any } else { Cores::Second };
    let proxy = load_echo(plug::Command::new(own).arg(children::PLUGIN))?;
    let mut pipe = RawPipe::start(payload.len(), cores)?;
    let (mut raw, mut plug) = (Vec::new(), Vec::new());
    for round in 0..=plan.rounds.min(15) {
        if !plan.one_core {
            children::pin(Cores::First)?;
        }
        let begin = Instant::now();
        for _ in 0..plan.calls {
            pipe.echo(&payload)?;
        }
        let raw_rate = plan.calls as f64 / begin.elapsed().as_secs_f64();
        if !plan.one_core {
            children::pin(Cores::All)?;
        }

        let begin = Instant::now();
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..CALLERS)
                .map(|_| {
                    let proxy = &proxy;
                    scope
                        .spawn(move || (0..plan.calls).try_for_each(|_| echo_once(proxy, &payload)))
                })
                .collect();
            callers.into_iter().try_for_each(|caller| caller.join().expect("a caller panicked"))
        })?;
        let plug_rate = (plan.calls * CALLERS) as f64 / begin.elapsed().as_secs_f64();
        if round > 0 {
            raw.push(raw_rate);
            plug.push(plug_rate);
        }
    }
    let ratios: Vec<_> = raw.iter().zip(&plug).map(|(raw, plug)| plug / raw).collect();
    let where_ = if plan.one_core { "one core" } else { "two cores" };
    println!("64 B echo, {CALLERS} callers, calls per second");
    println!("  {:<42}{:>10.0}", format!("pipe, one caller, {where_}"), stats::median(&raw));
    println!(
        "  {:<42}{:>10.0}{:>10}{:>10.2}",
        "plug",
        stats::median(&plug),
        "",
        stats::median(&ratios)
    );
    Ok(())
}

/// From the start of the child to its first reply, and its end.
fn start(plan: &Plan) -> Result<()> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let payload = [7; 64];
    let (mut raw, mut plug) = (Samples::default(), Samples::default());
    let starts = if plan.rounds > 5 { 20 } else { 3 };
    for round in 0..=plan.rounds.min(10) {
        let mut kept_pipes = Vec::new();
        raw.round(starts, round > 0, Duration::ZERO, || {
            let mut pipe = RawPipe::start(payload.len(), Cores::Any)?;
            pipe.echo(&payload)?;
            kept_pipes.push(pipe);
            Ok(())
        })?;
        drop(kept_pipes);
        let mut kept_plugins = Vec::new();
        plug.round(starts, round > 0, Duration::ZERO, || {
            let proxy = load_echo(plug::Command::new(&own).arg(children::PLUGIN))?;
            echo_once(&proxy, &payload)?;
            kept_plugins.push(proxy);
            Ok(())
        })?;
        for proxy in kept_plugins {
            plug::Proxy::peer(&proxy).stop(Duration::from_secs(5))?;
        }
    }
    println!("start to first reply");
    raw.print("pipe", &raw);
    plug.print("plug", &raw);
    Ok(())
}
