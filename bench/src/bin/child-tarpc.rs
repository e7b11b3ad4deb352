//! The other side of `tarpc`.

fn main() -> anyhow::Result<()> {
    plug_bench::children::tarpc()
}
