//! The other side of `shm`.

fn main() -> anyhow::Result<()> {
    plug_bench::children::shm()
}
