//! The other side of `capnp`.

fn main() -> anyhow::Result<()> {
    plug_bench::children::capnp()
}
