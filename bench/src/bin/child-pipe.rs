//! The other side of `pipe`.

fn main() -> anyhow::Result<()> {
    plug_bench::children::pipe()
}
