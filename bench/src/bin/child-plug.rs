//! The other side of `plug`.

fn main() -> anyhow::Result<()> {
    plug_bench::children::plug()
}
