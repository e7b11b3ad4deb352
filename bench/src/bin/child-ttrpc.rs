//! The other side of `ttrpc`.

fn main() -> anyhow::Result<()> {
    plug_bench::children::ttrpc()
}
