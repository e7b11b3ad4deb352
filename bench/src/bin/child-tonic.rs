//! The other side of `tonic`.

fn main() -> anyhow::Result<()> {
    plug_bench::children::tonic()
}
