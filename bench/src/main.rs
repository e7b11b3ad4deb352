//! The benchmark: `-- --help` says what it does.

fn main() -> anyhow::Result<()> {
    plug_bench::run()
}
